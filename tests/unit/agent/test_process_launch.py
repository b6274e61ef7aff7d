"""Starting programs: what an errno means to a client, and scripts that are too long for an argument."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from cloister.agent.accounts import Account
from cloister.agent.filesystem.faults import fault_of
from cloister.agent.process.faults import check_cwd, start_fault
from cloister.agent.process.launch import Launch, launch
from cloister.agent.process.script import MAX_SCRIPT_BYTES, find_script
from cloister.errors import CloisterError, InvalidRequestError
from cloister.protocol.connect import code_of, http_status

ME = Account("me", os.getuid(), os.getgid(), (os.getgid(),), "/", "/bin/sh")
ENV = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}

INVALID, PASSES, STATE = "invalid_argument", "resource_exhausted", "failed_precondition"
START = {
    INVALID: "E2BIG ENOENT EACCES EPERM ENOTDIR EISDIR ELOOP ENAMETOOLONG ENOEXEC ELIBBAD EINVAL",
    PASSES: "EAGAIN EUSERS ENOMEM EMFILE ENFILE ENOSPC",
    STATE: "ETXTBSY",
}
CWD = {INVALID: START[INVALID].replace("ENOEXEC ELIBBAD ", "").replace("E2BIG ", "").replace("EISDIR ", ""), PASSES: START[PASSES]}
FILES = {
    "not_found": "ENOENT",
    "already_exists": "EEXIST",
    "permission_denied": "EACCES EPERM EROFS",
    INVALID: "EISDIR ENOTDIR ENAMETOOLONG ELOOP EINVAL EFBIG EOPNOTSUPP ENXIO ENODEV ENOTBLK ENOTTY ESPIPE EILSEQ EOVERFLOW",
    STATE: "ENOTEMPTY EBUSY ETXTBSY EXDEV EMLINK EDEADLK ESTALE ENOSPC EDQUOT",
    PASSES: "EMFILE ENFILE ENOMEM EAGAIN ENOLCK",
    "deadline_exceeded": "ETIMEDOUT",
}
STATUS = {INVALID: 400, PASSES: 429, STATE: 400, "internal": 500, "not_found": 404, "already_exists": 409, "permission_denied": 403}
"""The errors that official SDKs raise for a unary call: invalid argument, rate limit (wait and retry), or one of its own."""


def expected(table: dict[str, str], number: int) -> str:
    """The code for an errno; what is in no table is a fault of the sandbox."""
    names = [name for name in dir(errno) if getattr(errno, name) == number]
    return next((code for code, row in table.items() if set(names) & set(row.split())), "internal")


@pytest.mark.parametrize(("table", "command"), [(START, "/bin/x"), (CWD, "/bin/y")])
def test_every_errno_of_a_start_has_a_class(table: dict[str, str], command: str) -> None:
    """A fault of the request is an invalid argument, what passes by itself a limit, and all else a fault of the sandbox."""
    for number in errno.errorcode:
        if table is CWD and expected(START, number) != expected(CWD, number):
            continue  # what only a program can have: no directory says it
        error = OSError(number, os.strerror(number), "/d" if table is CWD else command)
        fault = start_fault(error, command, "/d")
        assert str(code_of(fault)) == expected(table, number), errno.errorcode[number]
        assert http_status(code_of(fault)) == STATUS[expected(table, number)]
        assert fault.message
        assert "{" not in fault.message


def test_every_errno_of_a_file_has_a_class() -> None:
    """The same for work on files: a full disk is no rate limit either."""
    for number in errno.errorcode:
        fault = fault_of(OSError(number, os.strerror(number)), "/f")
        assert str(code_of(fault)) == expected(FILES, number), errno.errorcode[number]
        assert "{" not in fault.message


def refused(*argv: str, cwd: str = "/", env: dict[str, str] = ENV) -> CloisterError:
    """The error of a start."""
    with pytest.raises(CloisterError) as fault:
        launch(Launch(argv=argv, env=env, cwd=cwd, account=ME))
    return fault.value


def test_real_faults_of_starts(tmp_path: Path) -> None:
    """Each fault, as the kernel tells it, gives the right code and names its cause."""
    (tmp_path / "plain").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, content in (("garbage", b"\0\1\2"), ("orphan", b"#!/no/such/interpreter\n"), ("busy", b"#!/bin/sh\n")):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o755)
    name = f"{tmp_path}/"
    cases = [
        (refused(name + "nothing"), INVALID, "no such file"),
        (refused(name + "orphan"), INVALID, "no such file"),
        (refused("no-such-command"), INVALID, "no such command in PATH"),
        (refused(name + "plain"), INVALID, "permission denied"),
        (refused(str(tmp_path)), INVALID, "permission denied"),
        (refused(name + "plain/x"), INVALID, "not a directory"),
        (refused(name + "loop"), INVALID, "symbolic links"),
        (refused(name + "n" * 300), INVALID, "too long"),
        (refused(name + "garbage"), INVALID, "exec format error"),
        (refused("/bin/true", "x" * (128 << 10)), INVALID, r"argument 1 has 131072 bytes; Linux takes at most 131071"),
        (refused("/bin/true", *["x" * 100_000] * 100), INVALID, "at most [0-9]+ bytes together"),
        (refused("/bin/true", env={"BIG": "é" * 70_000}), INVALID, "variable 'BIG' has 140004 bytes"),
        (refused("/bin/true\0"), INVALID, "NUL"),
        (refused(""), INVALID, "empty"),
        (refused("/bin/true", "\ud800"), INVALID, "Unicode"),
        (refused("/bin/true", cwd=name + "nothing"), INVALID, f"^cwd '{name}nothing' does not exist$"),
        (refused("/bin/true", cwd=name + "plain"), INVALID, f"^cwd '{name}plain' is not a directory$"),
        (refused("bash", "-c", "x" * (MAX_SCRIPT_BYTES + 1)), INVALID, "it may have at most 16777216"),
        (refused("/bin/sh", "-c", "#" * (200 << 10)), INVALID, "argument 2 has 204800 bytes"),
    ]
    with (tmp_path / "busy").open("ab"):
        cases.append((refused(name + "busy"), STATE, "open for writing"))
    for fault, code, words in cases:
        assert str(code_of(fault)) == code, fault
        with pytest.raises(CloisterError, match=words):
            raise fault


def test_directories(tmp_path: Path) -> None:
    """A working directory that cannot be one says why."""
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, words in (
        ("nothing", "does not exist"),
        ("file", "is not a directory"),
        ("file/x", "is not a directory"),
        ("loop", "too many symbolic links"),
        ("n" * 300, "is too long"),
        ("\0", "is not a possible path"),
        ("\ud800", "is not a possible path"),
    ):
        with pytest.raises(InvalidRequestError, match=words):
            check_cwd(f"{tmp_path}/{path}")


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    """Too many open files are a limit, and neither this nor a fault with a long script leaves anything open."""
    before = sorted(path.name for path in Path("/proc/self/fd").iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unused = os.dup(0)
    os.close(unused)
    resource.setrlimit(resource.RLIMIT_NOFILE, (unused + 1, hard))
    try:
        fault = refused("/bin/true")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (str(code_of(fault)), fault.message) == (PASSES, "cannot start another process: too many files are open")
    refused("bash", "-c", "#" * (200 << 10), cwd=f"{tmp_path}/nothing")
    assert sorted(path.name for path in Path("/proc/self/fd").iterdir()) == before


@pytest.mark.parametrize(
    ("argv", "place"),
    [
        ("/bin/bash -l -c X", 3),
        ("bash -lc X name", 2),
        ("bash -c -l X", 3),
        ("bash -eo pipefail -c X", 4),
        ("bash -euxo pipefail -c X", 4),
        ("bash +O extglob -c X", 4),
        ("bash --rcfile f --login -c X", 5),
        ("bash -c -- X", 3),
        ("bash X", None),
        ("bash -l X", None),
        ("bash --norc X -c", None),
        ("bash -c", None),
        ("bash", None),
        ("sh -c X", None),
        ("cat -c X", None),
    ],
)
def test_where_a_script_is(argv: str, place: int | None) -> None:
    """The script of ``bash -c`` is found as bash finds it, and nothing else is taken for one."""
    assert find_script(argv.split()) == place


SHOWS = r"""
echo "0=$0 1=$1 n=$# status=$? flags=$-"
echo ${BASH_EXECUTION_STRING:1:8} ${BASH_EXECUTION_STRING: -4}
compgen -v | grep -v -e '^BASH' -e '^_$' -e '^PPID' -e '^PIPESTATUS' | sort
ls -l /proc/self/fd | wc -l; fds=(/proc/$$/fd/*); echo ${#fds[@]}
read word; echo "read $word"
f() { return 3; }; f || echo $?
return 0; echo "cannot return: $?"
no-such-command; echo $?
trap 'echo at the end' EXIT
echo line $LINENO
set -eu
$UNSET
echo not reached
"""


def run(script: str, *options: str) -> tuple[int, bytes, bytes]:
    """(exit code, output, error output) of a script of bash with a line of input."""
    started = launch(Launch(argv=["/bin/bash", *options, "-c", script, "me", "one"], env=ENV, cwd="/", account=ME, stdin=True))
    assert started.stdin is not None
    os.write(started.stdin, b"word\n")
    os.close(started.stdin)
    os.close(started.pidfd)
    taken = []
    for fd in started.outputs:
        os.set_blocking(fd, True)
        with os.fdopen(fd, "rb") as stream:
            taken.append(stream.read())
    return started.process.wait(), taken[0], taken[1]


@pytest.mark.parametrize("options", [(), ("-e",), ("-u", "-o", "pipefail")])
def test_a_long_script_is_like_a_short_one(options: tuple[str, ...]) -> None:
    """Arguments, input, variables, descriptors, line numbers, traps, options and the exit code do not tell how long the script is."""
    ending = "\n#end"
    short = run(SHOWS + "#" + ending, *options)
    assert short[0] in (1, 2)  # 2: option -e ends it at the return that cannot be
    assert b"read word\n" in short[1]
    assert (b"at the end\n" in short[1]) is ("-e" not in options)
    assert run(SHOWS + "#" * (300 << 10) + ending, *options) == short


def test_a_file_of_5_mb_is_written_by_a_script(tmp_path: Path) -> None:
    """A here-document of megabytes arrives whole, with bytes of other languages and quotes in it."""
    content = "it's \"é\" $HOME `x` \\ 中\n" * 200_000
    code, out, err = run(f"cat > {tmp_path}/f <<'EOF'\n{content}EOF\nwc -c < {tmp_path}/f", "-l")
    assert (code, int(out), err) == (0, len(content.encode()), b"")
    assert (tmp_path / "f").read_text() == content


def test_lists_of_processes_show_the_beginning() -> None:
    """``ps`` shows the first line of a long script."""
    shown = run("# make the\tfile 中\ntr '\\0' ' ' < /proc/$$/cmdline\n#" + "x" * (200 << 10))[1].decode()
    assert "# # make the file 中 …" in shown
    assert len(shown) < 300
