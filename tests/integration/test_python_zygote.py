"""Python kernels forked from a zygote: they start as cold ones do, and nothing that must differ is the same in two of them."""

from __future__ import annotations

import ast
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from framework.driver_root import DRIVER_ENV, DRIVERS, root_layers
from framework.forked_driver import ForkedDriver, PythonZygote

BIRTHS = 12
SOURCES = (
    "import random, uuid, tempfile, os, secrets, ssl, platform, numpy as np, pandas, multiprocessing.process, multiprocessing.synchronize\n"
    "answer = [random.random(), random.Random().random(), random.getstate()[1][:3], str(uuid.uuid1())[:18], str(uuid.uuid4()), tempfile.mktemp(),"
    " next(tempfile._get_candidate_names()), next(multiprocessing.synchronize.SemLock._rand), secrets.token_hex(), ssl.RAND_bytes(16).hex(),"
    " bytes(multiprocessing.process.current_process().authkey).hex(), np.random.rand(), np.random.standard_normal(), np.random.default_rng().random(),"
    " str(np.random.get_state()[1][:3]), np.random.get_bit_generator().seed_seq.spawn(1)[0].generate_state(2).tolist()]"
)
"""Draws from every source of the renewal table that a program can reach."""


def answer(kernel: Any, code: str) -> Any:
    """The value of an expression, as a literal."""
    messages = kernel.execute(code)
    assert not [one for one in messages if one["op"] == "error"], messages
    return ast.literal_eval(next(one["data"]["text/plain"] for one in messages if one["op"] == "result"))


@pytest.fixture
def start(python_zygote: PythonZygote) -> Any:
    """Starts forked kernels, which end with the test."""
    yield python_zygote.start
    python_zygote.end_kernels()


def test_the_exercise_is_silent(python_zygote: PythonZygote, start: Any) -> None:
    """Output of typical cells during the learning is not in the zygote's log, whose end a start error shows."""
    assert answer(start(), "1 + 1") == 2
    assert bytes(python_zygote.process.raw_stdout + python_zygote.process.raw_stderr) == b""


def test_no_module_is_there_before_it_is_imported(start: Any) -> None:
    """Modules that the zygote imported ahead are not in sys.modules, and arrive separately: numpy imports no pandas."""
    kernel = start()
    code = "import sys; [name for name in ('numpy', 'pandas', 'matplotlib', 'main', 'zygote', 'cloister_zygote', 'cloister_zygote.birth', 'ctypes') if name in sys.modules]"
    assert answer(kernel, code) == []
    assert answer(kernel, f"import numpy; {code[12:]}") == ["numpy", "ctypes"]
    assert answer(
        kernel, "numpy.__spec__.loader is not sys.meta_path[0], numpy.linalg is __import__('importlib').import_module('numpy.linalg')"
    ) == (True, True)


def test_two_kernels_never_draw_alike(python_zygote: PythonZygote, start: Any) -> None:
    """No source of randomness gives the same twice among many kernels, nor what the zygote itself would have drawn."""
    code = f"{SOURCES}\nanswer"
    draws = [answer(start(), code) for _ in range(BIRTHS)]
    with python_zygote.fork(b"t") as twin:
        twin.settimeout(30)
        twin.sendall(f"exec({SOURCES!r})\n".encode())
        draws.append(ast.literal_eval(twin.makefile().readline()))
    for place, values in enumerate(zip(*draws, strict=True)):
        assert len({str(value) for value in values}) == len(draws), (place, values)


def test_the_test_of_draws_sees_a_twin(python_zygote: PythonZygote) -> None:
    """Two children that are not born do draw alike: the renewal is what makes the difference."""
    lines = []
    for _ in range(2):
        with python_zygote.fork(b"t") as twin:
            twin.settimeout(30)
            twin.sendall(b"import numpy; answer = numpy.random.rand()\n")
            lines.append(twin.makefile().readline())
    assert lines[0] == lines[1]


def test_identity(start: Any) -> None:
    """The kernel has the user, groups, directory and score that it was given, and a user without root's capabilities."""
    kernel = start(uid=1000, gid=1000, groups=[1000, 4], oom_score_adj=600, cwd="/home/user", env={"HOME": "/home/user"})
    code = "import os\nstatus = open('/proc/self/status').read()\n"
    code += "(os.getresuid(), os.getresgid(), sorted(os.getgroups()), os.getcwd(), open('/proc/self/oom_score_adj').read().strip(),"
    code += " [int(l.split()[1], 16) for l in status.splitlines() if l.startswith(('CapEff', 'CapPrm'))], os.stat('/proc/self/fd').st_uid, os.path.expanduser('~'))"
    assert answer(kernel, code) == ((1000,) * 3, (1000,) * 3, [4, 1000], "/home/user", "600", [0, 0], 1000, "/home/user")


def test_environment_is_taken_as_at_a_start(start: Any) -> None:
    """PYTHONPATH, TZ and the user's packages have effect; the zygote's own variables are gone."""
    start().execute("import os\nos.makedirs('/root/extra', exist_ok=True)\nopen('/root/extra/extra_module.py', 'w').write('X = 1')")
    env = {"PYTHONPATH": "/root/extra", "TZ": "Asia/Tokyo"}
    code = "import extra_module, time, sys, os; extra_module.X, time.strftime('%z'), sys.path.index('/root/extra'), sorted(os.environ)"
    assert answer(start(env=env), code) == (1, "+0900", 1, sorted({*DRIVER_ENV, *env, "MPLBACKEND"}))


def test_user_packages_go_before_the_systems(start: Any) -> None:
    """A package installed with ``pip install --user`` before the kernel was born is found, and first."""
    start().execute(
        "import os, site\nos.makedirs('/tmp/home/.local/lib/python3.13/site-packages')\nopen('/tmp/home/.local/lib/python3.13/site-packages/tabulate.py', 'w').write('Z = 3')"
    )
    assert answer(start(env={"HOME": "/tmp/home"}), "import tabulate; tabulate.Z") == 3  # in the test root


@pytest.mark.parametrize("name", ["PYTHONHASHSEED", "PYTHONWARNINGS", "LD_LIBRARY_PATH", "OPENBLAS_CORETYPE", "LC_ALL"])
def test_what_only_a_start_can_honour_is_a_cold_start(start: Any, name: str) -> None:
    """With such a variable the child executes the driver: same pid, same descriptors, and a ``ready`` like any other."""
    value = {"PYTHONWARNINGS": "error", "OPENBLAS_CORETYPE": "Haswell", "LC_ALL": "POSIX"}.get(name, "0")
    kernel = start(env={name: value})
    code = "import sys; open('/proc/self/cmdline').read().split('\\0')[1], type(sys.meta_path[0]).__name__ == 'HiddenModules', sys.flags.hash_randomization"
    assert answer(kernel, code) == (f"{DRIVERS}/python/main.py", False, 0 if name == "PYTHONHASHSEED" else 1)


def test_a_package_that_was_replaced_is_the_new_one(start: Any) -> None:
    """A version installed after the zygote's start is what an import gives, whatever was imported ahead."""
    kernel = start()
    kernel.execute(
        "import os, sys\nos.makedirs('/root/new/cycler', exist_ok=True)\nopen('/root/new/cycler/__init__.py', 'w').write('__version__ = \"new\"')"
    )
    kernel.execute("sys.path.insert(0, '/root/new')")
    assert answer(kernel, "import cycler; cycler.__version__, cycler.__file__") == ("new", "/root/new/cycler/__init__.py")
    assert answer(kernel, "import pandas; int(pandas.DataFrame({'a': [1]}).a.sum())") == 1
    assert answer(start(), "import cycler; cycler.__version__ != 'new'") is True


def test_packages_installed_before_the_first_cell_make_it_a_cold_kernel() -> None:
    """The first cell of a waiting kernel finds packages that a command installed. The kernel reports ``ready`` once."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    zygote = PythonZygote(root_layers())
    try:
        kernel, other = zygote.start(), zygote.start()
        where = "/usr/local/lib/python3.13/dist-packages"
        other.execute(f"open('{where}/unrelated.py', 'w').close()")
        assert answer(zygote.start(), "import unrelated, sys; type(sys.meta_path[0]).__name__") == "HiddenModules"
        other.execute(f"import os; os.rename('{where}/cycler', '{where}/cycler.old'); os.mkdir('{where}/cycler')")
        other.execute(f"open('{where}/cycler/__init__.py', 'w').write('__version__ = \"new\"')")
        assert answer(kernel, "import cycler, sys; cycler.__version__, type(sys.meta_path[0]).__name__") == ("new", "_ImportHook")
        assert kernel.execute("1")[-1]["count"] == 2
    finally:
        zygote.close()


def test_a_file_in_the_work_directory_hides_a_module_as_always(start: Any) -> None:
    """The first entry of sys.path is the work directory, also for modules that were imported ahead."""
    kernel = start(cwd="/home")
    kernel.execute("open('/home/csv.py', 'w').write('mine = True')")
    assert answer(kernel, "import csv; csv.mine") is True
    kernel.execute("import os; os.remove('/home/csv.py')")


def test_numpy_uses_the_sandboxes_processors(start: Any) -> None:
    """BLAS has as many threads as in a cold kernel, or what OPENBLAS_NUM_THREADS says."""
    code = "import numpy, os; a = numpy.ones((600, 600)); float((a @ a)[0, 0]), len(os.listdir('/proc/self/task'))"
    assert answer(start(), code) == (600.0, len(os.sched_getaffinity(0)))
    assert answer(start(env={"OPENBLAS_NUM_THREADS": "1"}), code) == (600.0, 1)


def test_settings_of_matplotlib_are_the_users(start: Any) -> None:
    """Matplotlib reads matplotlibrc, MPLBACKEND and its directories when the kernel's code imports it."""
    kernel = start()
    kernel.execute("import os\nos.makedirs('/tmp/m', exist_ok=True)\nopen('/tmp/m/matplotlibrc', 'w').write('lines.linewidth: 7')")
    code = "import matplotlib; matplotlib.rcParams['lines.linewidth'], matplotlib.get_configdir(), matplotlib.rcParams['backend'].lower()"
    assert answer(start(env={"MPLCONFIGDIR": "/tmp/m", "MPLBACKEND": "agg"}), code) == (7.0, "/tmp/m", "agg")  # in the test root
    assert answer(start(), code)[1:] == ("/root/.config/matplotlib", "module://matplotlib_inline.backend_inline")


def test_a_child_that_nobody_adopts_ends(python_zygote: PythonZygote) -> None:
    """When its socket ends before the adoption the child goes away, and the zygote goes on."""
    birth = python_zygote.fork()
    birth.settimeout(10)
    assert birth.recv(1) == b"B"
    birth.shutdown(socket.SHUT_WR)
    assert birth.recv(1) == b""
    birth.close()
    kernel: ForkedDriver = python_zygote.start()
    assert answer(kernel, "1 + 1") == 2
    python_zygote.end_kernels()


@pytest.mark.parametrize(
    ("start_code", "why"),
    [
        ("import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()", "2 threads"),
        ("import mmap; kept = mmap.mmap(-1, 4096)", "shared writable mapping"),
        ("import os; os.dup2(os.open('/etc/passwd', 0), 9)", "descriptor 9"),
    ],
)
def test_a_zygote_that_must_not_fork_says_why(start_code: str, why: str) -> None:
    """With a thread, a shared writable mapping or a foreign descriptor it never becomes ready."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with pytest.raises(RuntimeError, match=why):
        PythonZygote(root_layers(), start=f"import sys; sys.kept = []\n{start_code}").close()


def test_a_kernel_holds_little_memory_of_its_own(start: Any) -> None:
    """An idle forked kernel has dirtied less than 5 MiB after its first cell."""
    kernel = start()
    kernel.execute("1 + 1")
    rollup = Path(f"/proc/{kernel.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    dirty_kib = next(int(line.split()[1]) for line in rollup if line.startswith("Private_Dirty:"))
    assert dirty_kib < 5 << 10


def test_what_was_made_before_the_fork_is_not_counted(start: Any) -> None:
    """Using it writes to no shared page: constants of code and members of tuples in tuples, which the collector does not know, too."""
    code = (
        "import sys, textwrap, opcode\n"
        "code = textwrap.TextWrapper._split_chunks.__code__\n"
        "[len(str(sys.getrefcount(one))) > 8 for one in (code, code.co_consts, code.co_linetable, code.co_exceptiontable, opcode.cmp_op[0])]"
    )
    assert answer(start(), code) == [True] * 5


def test_memory_is_collected_as_in_a_cold_kernel(start: Any) -> None:
    """Objects of the kernel's own code are freed, by count and by the collector."""
    code = "import gc, weakref\nclass Thing: pass\none, two = Thing(), Thing(); two.me = two\nrefs = weakref.ref(one), weakref.ref(two)\n"
    assert answer(start(), f"{code}del one, two\ngc.collect()\n[ref() for ref in refs]") == [None, None]


def test_looking_for_a_package_does_not_import_it_twice(start: Any) -> None:
    """``find_spec``, as libraries ask whether another is installed, gives what the import after it takes."""
    kernel = start()
    code = "import importlib.util, warnings; warnings.simplefilter('error')\nfound = importlib.util.find_spec('numpy') is not None\nimport numpy"
    assert not [one for one in kernel.execute(code) if one["op"] == "error"]
    assert answer(kernel, "found, int(numpy.arange(3).sum())") == (True, 3)
