"""Unit tests of the seccomp profile and of the program it compiles to, which is run here by a small BPF interpreter."""

from __future__ import annotations

import errno
import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import pytest

from cloister import runtime
from cloister.errors import IsolationError
from cloister.linux.seccomp import Profile, compile_bpf, load_profile, skipped_names

pyseccomp = pytest.importorskip("pyseccomp", reason="libseccomp2 is not installed")

PATH = Path(runtime.__file__).parent / "namespace" / "profiles" / "default.json"
ALLOW = 0x7FFF0000
ERRNO = 0x00050000


@pytest.fixture(scope="module")
def profile() -> Profile:
    """The default profile."""
    return load_profile(PATH)


def run(program: bytes, data: bytes) -> int:
    """The 32-bit value that a classic BPF program returns for a ``struct seccomp_data``."""
    code = list(struct.iter_unpack("=HBBI", program))
    acc, pc = 0, 0
    while True:
        op, jt, jf, k = code[pc]
        pc += 1
        if op == 0x20:
            acc = struct.unpack_from("=I", data, k)[0]
        elif op == 0x06:
            return int(k)
        elif op == 0x05:
            pc += k
        else:
            taken = {0x15: acc == k, 0x25: acc > k, 0x35: acc >= k, 0x45: bool(acc & k)}[op]
            pc += jt if taken else jf


def verdict(profile: Profile, call: str | int, *args: int, arch: int | None = None) -> int:
    """0 if the call is allowed, else the errno it gives."""
    native = pyseccomp.system_arch()
    number = call if isinstance(call, int) else pyseccomp.resolve_syscall(native, call)
    padded = (*args, *[0] * (6 - len(args)))
    native = native & 0xFFFFFFFF
    value = run(compile_bpf(profile), struct.pack("=IIQ6Q", number, native if arch is None else arch, 0, *padded))
    if value == ALLOW:
        return 0
    assert value & 0xFFFF0000 == ERRNO, hex(value)
    return value & 0xFFFF


def known_calls() -> dict[int, str]:
    """Every call that libseccomp knows on this machine, by number."""
    found = {}
    for number in range(512):
        try:
            found[number] = pyseccomp.resolve_syscall(pyseccomp.system_arch(), number).decode()
        except ValueError:
            continue
    return found


def test_every_entry_has_a_reason(profile: Profile) -> None:
    """Each group and each argument rule says in words why it is there."""
    reasons = [group.reason for group in profile.groups] + [rule.reason for rule in profile.rules]
    assert all(len(reason) > 15 for reason in reasons)


def test_the_profile_decides_every_call_that_libseccomp_knows(profile: Profile) -> None:
    """No known call is left to the default: each one was looked at and is allowed or refused by name."""
    named = {name for group in profile.groups for name in group.names}
    assert set(known_calls().values()) - named == set()


def test_the_program_decides_every_call_as_the_profile_says(profile: Profile) -> None:
    """The compiled binary tree gives, for each number and zero arguments, what the profile gives the name."""
    wanted = {name: group.errno for group in profile.groups for name in group.names}
    numbers = {v: k for k, v in profile.numbers} | known_calls()
    for number in range(1024):
        name = numbers.get(number)
        if name not in {"socket", "socketpair"}:  # their family 0 is refused by a rule
            assert verdict(profile, number) == wanted.get(name or "", errno.ENOSYS), (number, name)


@pytest.mark.parametrize(
    ("call", "args", "expected"),
    [
        ("clone", (0x11,), 0),
        ("clone", (0x3D0F00,), 0),
        ("clone", (0x10000011,), errno.EPERM),
        ("clone", (0x40000000,), errno.EPERM),
        ("clone3", (), errno.ENOSYS),
        ("unshare", (0x600,), 0),
        ("unshare", (0x80,), errno.EPERM),
        ("unshare", (0x20000,), errno.EPERM),
        ("personality", (0xFFFFFFFF,), 0),
        ("personality", (0xFFFFFFFFFFFFFFFF,), 0),
        ("personality", (0x40000,), 0),
        ("personality", (0x400000,), errno.EPERM),
        ("socket", (1, 1, 0), 0),
        ("socket", (2, 1, 6), 0),
        ("socket", (10, 2, 17), 0),
        ("socket", (2, 3, 1), 0),
        ("socket", (2, 1, 132), errno.EPROTONOSUPPORT),
        ("socket", (2, 1, 262), errno.EPROTONOSUPPORT),
        ("socket", (16, 3, 0), 0),
        ("socket", (16, 3, 4), 0),
        ("socket", (16, 3, 12), errno.EPROTONOSUPPORT),
        *[("socket", (family, 3, 0), errno.EAFNOSUPPORT) for family in (0, 3, 9, 11, 15, 17, 29, 38, 40, 44, 45)],
        ("socketpair", (1, 1, 0), 0),
        ("socketpair", (30, 1, 0), errno.EOPNOTSUPP),
        ("ioctl", (0, 0x5413), 0),
        ("ioctl", (0, 0x5412), errno.EPERM),
        ("ioctl", (0, 0x541C), errno.EPERM),
        ("ioctl", (0, 0x5423), errno.EPERM),
    ],
)
def test_argument_rules(profile: Profile, call: str, args: tuple[int, ...], expected: int) -> None:
    """The rules about arguments refuse what they name and leave the rest allowed."""
    assert verdict(profile, call, *args) == expected


@pytest.mark.parametrize(
    ("call", "args", "expected"),
    [
        ("ioctl", (0, 0x1_0000_5412), errno.EPERM),
        ("socket", (0x1_0000_0028, 1, 0), errno.EAFNOSUPPORT),
        ("socket", (0x1_0000_0010, 3, 12), errno.EPROTONOSUPPORT),
        ("clone", (0xFFFF_FFFF_1000_0011,), errno.EPERM),
    ],
)
def test_high_bits_do_not_pass_a_rule(profile: Profile, call: str, args: tuple[int, ...], expected: int) -> None:
    """The kernel drops the high half of an int argument, so the filter must not be fooled by it."""
    assert verdict(profile, call, *args) == expected


def test_foreign_architectures_are_refused(profile: Profile) -> None:
    """32-bit and x32 calls give ENOSYS, whatever their number."""
    for number in range(470):
        assert verdict(profile, number, arch=0x40000003) in {errno.ENOSYS, errno.EPERM, errno.EAFNOSUPPORT, errno.EOPNOTSUPP}
        assert verdict(profile, number | 0x40000000) == errno.ENOSYS


def test_nothing_is_skipped_without_being_told(profile: Profile) -> None:
    """An allowed name that does not exist is reported and stays refused."""
    extra = json.loads(PATH.read_text())
    extra["allow"].append({"reason": "a call that does not exist", "names": ["frobnicate"]})
    changed = _load(extra)
    assert set(skipped_names(changed)) == set(skipped_names(profile)) | {"frobnicate"}
    assert compile_bpf(changed) == compile_bpf(profile)


def _load(raw: dict[str, Any]) -> Profile:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as out:
        json.dump(raw, out)
        out.flush()
        return load_profile(Path(out.name))


@pytest.mark.parametrize(
    "change",
    [
        {"rules": [{"syscall": "clone", "arg": 0, "any_bits": 1, "errno": "EPERM"}]},
        {"rules": [{"syscall": "clone", "arg": 6, "any_bits": 1, "errno": "EPERM", "reason": "an argument that cannot be"}]},
        {"rules": [{"syscall": "clone", "arg": 0, "in": [1], "not_in": [2], "errno": "EPERM", "reason": "two conditions at once"}]},
        {"rules": [{"syscall": "clone", "arg": 0, "in": [], "errno": "EPERM", "reason": "no values at all"}]},
        {"refuse": [{"errno": "EWHAT", "names": ["bpf"], "reason": "an errno that does not exist"}]},
        {"refuse": [{"errno": "EPERM", "names": ["read"], "reason": "allowed above, refused here"}]},
        {"allow": None},
    ],
)
def test_a_malformed_profile_is_refused(change: dict[str, Any]) -> None:
    """A profile without reasons, with impossible rules or contradictions stops the sandbox."""
    with pytest.raises(IsolationError):
        _load(json.loads(PATH.read_text()) | change)


def test_a_rule_about_an_unknown_call_is_an_error() -> None:
    """An argument rule that cannot be applied stops the sandbox."""
    raw = json.loads(PATH.read_text())
    raw["rules"].append({"syscall": "frobnicate", "arg": 0, "in": [1], "errno": "EPERM", "reason": "a call that does not exist"})
    with pytest.raises(IsolationError, match="frobnicate"):
        compile_bpf(_load(raw))
