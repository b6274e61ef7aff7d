"""The message ``renew`` to each driver that knows it: a copy of a sandbox does not draw the original's random numbers.

Two copies have the same memory. A test makes the same state in one kernel twice, by a seed, and renews it in between.
"""

from __future__ import annotations

from typing import Any

import pytest

from framework.driver_root import DRIVERS, DriverProcess, DriverRoot
from framework.node_driver import ARGV as NODE

pytestmark = [pytest.mark.root, pytest.mark.templates]


def _value(kernel: Any, code: str) -> str:
    """The main result of a cell that must not fail."""
    messages = kernel.execute(code)
    assert [message for message in messages if message["op"] == "error"] == []
    (text,) = [message["data"]["text/plain"] for message in messages if message["op"] == "result" and message["main"]]
    assert isinstance(text, str)
    return text


def _renewed(kernel: Any, seed: str, draw: str) -> set[str]:
    """The draws after a seed: twice without a renewal, which are equal, and twice after one."""
    kernel.execute(seed)
    plain = _value(kernel, draw)
    kernel.execute(seed)
    assert _value(kernel, draw) == plain, "the seed does not make the same state"
    drawn = {plain}
    for _ in range(2):
        kernel.execute(seed)
        kernel.send({"op": "renew"})
        drawn.add(_value(kernel, draw))
    return drawn


@pytest.mark.parametrize(
    ("seed", "draw"),
    [
        ("import random; random.seed(42)", "random.random()"),
        ("import numpy; numpy.random.seed(42)", "numpy.random.random()"),
        ("import numpy; numpy.random.seed(42); _ = numpy.random.standard_normal()", "numpy.random.standard_normal()"),
        ("import numpy; g = numpy.random.default_rng(2**100)", "float(g.random())"),
        (
            "import tempfile; tempfile._name_sequence = n = tempfile._RandomNameSequence(); n.rng.seed(42)",
            "next(tempfile._get_candidate_names())",
        ),
    ],
)
def test_python_generators(python: DriverProcess, seed: str, draw: str) -> None:
    """The generators of the standard library and of numpy, in kernels of both kinds."""
    assert len(_renewed(python, seed, draw)) == 3


@pytest.mark.parametrize(
    ("seed", "draw"),
    [
        ("import random; r = random.Random(42)", "r.random()"),
        ("import numpy; g = numpy.random.default_rng(42)", "float(g.random())"),
        ("import numpy; g = numpy.random.RandomState(42)", "g.random_sample()"),
    ],
)
def test_python_seeds_that_code_chose(python: DriverProcess, seed: str, draw: str) -> None:
    """Generators of the user's own with a seed of their own go on as they were: the user wants those numbers."""
    assert len(_renewed(python, seed, draw)) == 1


def test_python_keeps_everything_else(python: DriverProcess) -> None:
    """A renewal changes no name, no file, no setting of the user's."""
    python.execute("import tempfile, multiprocessing, ssl, uuid, platform; tempfile.tempdir = '/var/tmp'")
    python.execute(
        "key, node, name = multiprocessing.current_process().authkey, uuid.uuid1().node, platform.node(); before = set(globals())"
    )
    python.send({"op": "renew"})
    assert _value(python, "sorted(name for name in set(globals()) - before if not name.startswith('_'))") == "['before']"
    assert _value(python, "tempfile.tempdir, multiprocessing.current_process().authkey == key") == "('/var/tmp', True)"
    assert _value(python, "[name for name in __import__('sys').modules if 'cloister_zygote' in name]") == "[]"


def test_python_with_many_objects(python: DriverProcess) -> None:
    """A million objects are searched within the time of a cell."""
    python.execute("import numpy; many = [[] for _ in range(1_000_000)]")
    python.send({"op": "renew"})
    assert _value(python, "len(many)") == "1000000"


def test_r(driver_root: DriverRoot) -> None:
    """R's generator, of the default kind and of another one, which stays."""
    kernel = driver_root.start(["/usr/bin/Rscript", f"{DRIVERS}/r/main.R"])
    assert len(_renewed(kernel, "set.seed(42)", "runif(1)")) == 3
    assert len(_renewed(kernel, 'RNGkind("Wichmann-Hill"); set.seed(42)', "runif(1)")) == 3
    assert "Wichmann-Hill" in _value(kernel, "RNGkind()")


def test_bash(driver_root: DriverRoot) -> None:
    """RANDOM is seeded; the last status stays."""
    kernel = driver_root.start(["/usr/bin/python3", "-I", "-S", f"{DRIVERS}/bash/main.py"])
    drawn = set()
    for _ in range(3):
        del kernel.raw_stdout[:]
        kernel.execute("RANDOM=42; (exit 7)")
        kernel.send({"op": "renew"})
        kernel.execute("echo $?; printf '%s.' $RANDOM $RANDOM $RANDOM; echo; read -r line < <(echo end)")
        kernel.execute("echo over")
        while b"over" not in kernel.raw_stdout:
            pass
        status, numbers, _ = kernel.raw_stdout.decode().split("\n", 2)
        assert status == "7"
        drawn.add(numbers)
    assert len(drawn) == 3


def test_node(driver_root: DriverRoot) -> None:
    """Math.random and node:crypto draw from the kernel, and behave as before."""
    kernel = driver_root.start([NODE[0], "--random-seed=42", *NODE[1:]])
    other = driver_root.start([NODE[0], "--random-seed=42", *NODE[1:]])
    assert _value(kernel, "Math.random()") == _value(other, "Math.random()")
    for one in (kernel, other):
        one.send({"op": "renew"})
        one.send({"op": "renew"})
    assert _value(kernel, "Math.random()") != _value(other, "Math.random()")
    kernel.execute("const crypto = require('node:crypto'); const sizes = new Uint16Array(4)")
    checks = {
        "crypto.randomBytes(8).length": "8",
        "crypto.randomBytes(8).equals(crypto.randomBytes(8))": "false",
        "new Promise((done) => crypto.randomBytes(8, (e, b) => done(b.length)))": "8",
        "crypto.randomFillSync(sizes, 1, 2)[0]": "0",
        "sizes[3]": "0",
        "new Promise((done) => crypto.randomFill(Buffer.alloc(4), (e, b) => done(b.length)))": "4",
        "new Set(Array.from({length: 400}, () => crypto.randomInt(3))).size": "3",
        "crypto.randomInt(5, 6)": "5",
        "new Promise((done) => crypto.randomInt(1, 2, (e, n) => done(n)))": "1",
        "/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(crypto.randomUUID())": "true",
        "globalThis.crypto.getRandomValues(new Uint8Array(4)).length": "4",
        "crypto.getRandomValues(new Uint8Array(4)).length": "4",
        "(() => { try { crypto.randomInt(2, 1) } catch (e) { return e.code } })()": "ERR_OUT_OF_RANGE",
        "(() => { try { crypto.randomBytes('x') } catch (e) { return e.code } })()": "ERR_INVALID_ARG_TYPE",
        "(() => { try { globalThis.crypto.getRandomValues(new Float32Array(1)) } catch (e) { return e.name } })()": "TypeMismatchError",
    }
    for code, expected in checks.items():
        assert _value(kernel, code).strip("'") == expected, code
    kernel.execute("Math.random = () => 4")
    kernel.send({"op": "renew"})
    assert _value(kernel, "Math.random()") == "4"
