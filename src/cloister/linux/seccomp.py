"""Seccomp: compiles a syscall profile to the BPF program that ``seccomp(2)`` installs.

Owns the form of the profile (a JSON file with a reason for every entry) and its translation to classic BPF. The profile decides which
calls a sandbox may make, and the slot maker installs the program. This module must not know why a call is refused.

The program has two parts, executed in order::

    ld nr; for each call with rules: jeq nr -> compare the low 32 bits of arguments -> ret ERRNO    argument rules, by this module
    ld arch; jne -> ret ERRNO(ENOSYS); ld nr; binary search -> ret ALLOW | ret ERRNO                names, by libseccomp

An argument rule can only refuse; if it does not match, the second part decides. Rules compare the low 32 bits, because the kernel reads
only those of an ``int`` argument: a program could evade a 64-bit comparison by setting a high bit. The first part does not check the
architecture, because the second part refuses every call of a foreign one (32-bit, x32).

Invariant: fail closed. An argument rule for an unknown call is an error; an allowed name that is unknown stays refused.
Runs in: supervisor, at start. Needs: libseccomp.
Source: seccomp(2), linux/Documentation/userspace-api/seccomp_filter.rst, seccomp_export_bpf(3).
"""

from __future__ import annotations

import errno
import functools
import json
import platform
import struct
import tempfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from cloister.errors import IsolationError

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

__all__ = ["ArgumentRule", "Group", "Profile", "allowing", "compile_bpf", "load_profile", "skipped_names"]

_SOCK_FILTER = struct.Struct("=HBBI")  # struct sock_filter: code, jump if true, jump if false, operand
_MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
_LD_ABS_W, _JMP_JEQ, _JMP_JSET, _JMP_JA, _RET = 0x20, 0x15, 0x45, 0x05, 0x06
_OFFSET_NR, _OFFSET_ARGS = 0, 16  # struct seccomp_data, little endian: the low word of an argument comes first
_RET_ERRNO = 0x00050000
_ALLOW = 0
_UNKNOWN_NAME = -1  # __NR_SCMP_ERROR; other negative numbers are calls of other architectures

_Instruction = tuple[int, int, int, int]


@dataclass(frozen=True)
class Group:
    """Calls with the same decision: ``errno`` is 0 to allow them, else the error that they return."""

    names: tuple[str, ...]
    errno: int
    reason: str


@dataclass(frozen=True)
class ArgumentRule:
    """Refuses ``syscall`` with ``errno`` if the low 32 bits of argument ``arg`` match.

    ``op`` is ``in`` or ``not_in`` (a list of values) or ``any_bits`` (one mask). With ``when`` (argument, values) the rule applies only if
    that argument is one of those values.
    """

    syscall: str
    arg: int
    op: str
    values: tuple[int, ...]
    errno: int
    reason: str
    when: tuple[int, tuple[int, ...]] | None = None


@dataclass(frozen=True)
class Profile:
    """A whole profile. A call that it does not name returns ``unknown_errno``; ``numbers`` has calls that libseccomp does not know."""

    name: str
    unknown_errno: int
    groups: tuple[Group, ...]
    rules: tuple[ArgumentRule, ...]
    numbers: tuple[tuple[str, int], ...]


def load_profile(path: Path) -> Profile:
    """Read a profile file.

    Raises: IsolationError if it cannot be read, has the wrong form, or names a call twice.
    """
    try:
        raw = json.loads(path.read_text("utf-8"))
        groups = [Group(tuple(g["names"]), _ALLOW, _reason(g)) for g in raw["allow"]]
        groups += [Group(tuple(g["names"]), _errno(g["errno"]), _reason(g)) for g in raw["refuse"]]
        numbers = {**raw["numbers"]["any"], **raw["numbers"].get(platform.machine(), {})}
        profile = Profile(
            name=raw["name"],
            unknown_errno=_errno(raw["unknown"]),
            groups=tuple(groups),
            rules=tuple(_rule(r) for r in raw["rules"]),
            numbers=tuple(sorted((str(k), int(v)) for k, v in numbers.items())),
        )
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise _fault(f"the seccomp profile is not usable: {err!r}", path=str(path)) from err
    names = [name for group in profile.groups for name in group.names]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise _fault(f"the seccomp profile names {', '.join(twice)} more than once", path=str(path))
    return profile


def allowing(profile: Profile, name: str) -> Profile:
    """The profile with one more call allowed, with any arguments. Raises: IsolationError if the profile has a rule for the call."""
    if any(rule.syscall == name for rule in profile.rules):
        raise _fault(f"the seccomp profile has a rule about {name}")
    groups = [replace(group, names=tuple(one for one in group.names if one != name)) for group in profile.groups]
    return replace(profile, name=f"{profile.name}+{name}", groups=(*groups, Group((name,), _ALLOW, "a zygote needs it")))


@functools.lru_cache(maxsize=8)
def compile_bpf(profile: Profile) -> bytes:
    """The profile as an array of ``struct sock_filter`` for this machine's native architecture.

    Shape: 8 bytes an instruction, at most 4,096; the length in instructions for ``struct sock_fprog`` is ``len(result) // 8``.
    Raises: IsolationError if libseccomp is missing or refuses, or an argument rule names a call that is unknown.
    """
    seccomp = _libseccomp()
    program = _argument_part(seccomp, profile) + _name_part(seccomp, profile)
    if len(program) > _MAX_INSTRUCTIONS * _SOCK_FILTER.size:
        raise _fault(f"the seccomp program has {len(program) // _SOCK_FILTER.size} instructions; the kernel allows {_MAX_INSTRUCTIONS}")
    return program


def skipped_names(profile: Profile) -> tuple[str, ...]:
    """Names in the profile that libseccomp does not know or that this architecture lacks. They stay refused."""
    seccomp = _libseccomp()
    return tuple(name for group in profile.groups for name in group.names if _number(seccomp, profile, name) is None)


def _reason(entry: dict[str, Any]) -> str:
    if not (reason := str(entry["reason"]).strip()):
        raise ValueError(f"an entry without a reason: {entry}")
    return reason


def _errno(name: str) -> int:
    value = getattr(errno, name, None)
    if not isinstance(value, int):
        raise ValueError(f"{name!r} is not an errno")  # noqa: TRY004 - the value in the file is wrong, not a caller's type
    return value


def _int(value: int | str) -> int:
    number = int(value, 0) if isinstance(value, str) else int(value)
    if not 0 <= number <= 0xFFFFFFFF:
        raise ValueError(f"{value!r} is not a 32-bit value")
    return number


def _rule(raw: dict[str, Any]) -> ArgumentRule:
    ops = [op for op in ("in", "not_in", "any_bits") if op in raw]
    if len(ops) != 1:
        raise ValueError(f"a rule needs exactly one of in, not_in, any_bits: {raw}")
    given = raw[ops[0]]
    values = (_int(given),) if ops[0] == "any_bits" else tuple(_int(v) for v in given)
    when = (_argument(raw["when"]["arg"]), tuple(_int(v) for v in raw["when"]["in"])) if "when" in raw else None
    if not values or (when and not when[1]):
        raise ValueError(f"a rule without values: {raw}")
    return ArgumentRule(raw["syscall"], _argument(raw["arg"]), ops[0], values, _errno(raw["errno"]), _reason(raw), when)


def _argument(index: int) -> int:
    if index not in range(6):
        raise ValueError(f"a system call has arguments 0 to 5, not {index!r}")
    return index


def _libseccomp() -> ModuleType:
    try:
        import pyseccomp  # noqa: PLC0415 - it loads libseccomp, which may be missing
    except (ImportError, RuntimeError, OSError) as err:
        raise _fault("libseccomp is missing", hint="apt-get install libseccomp2, and the Python package pyseccomp") from err
    if platform.machine() not in ("x86_64", "aarch64"):
        raise _fault(f"no seccomp profile for the architecture {platform.machine()}")
    return cast("ModuleType", pyseccomp)


def _number(seccomp: ModuleType, profile: Profile, name: str) -> int | None:
    """The call's number on this machine, or None."""
    number = int(seccomp.resolve_syscall(seccomp.system_arch(), name))
    if number == _UNKNOWN_NAME:
        return dict(profile.numbers).get(name)
    return number if number >= 0 else None


def _argument_part(seccomp: ModuleType, profile: Profile) -> bytes:
    by_call: dict[str, list[ArgumentRule]] = {}
    for rule in profile.rules:
        by_call.setdefault(rule.syscall, []).append(rule)
    code: list[_Instruction] = []
    for name, rules in by_call.items():
        if (number := _number(seccomp, profile, name)) is None:
            raise _fault(f"the seccomp profile has a rule about {name}, which is unknown here")
        block = [step for rule in rules for step in _rule_code(rule)]
        code += [(_LD_ABS_W, 0, 0, _OFFSET_NR), (_JMP_JEQ, 1, 0, number), (_JMP_JA, 0, 0, len(block)), *block]
    return b"".join(_SOCK_FILTER.pack(*step) for step in code)


def _rule_code(rule: ArgumentRule) -> list[_Instruction]:
    """Code that returns ERRNO if the rule matches and else falls through."""
    refuse: _Instruction = (_RET, 0, 0, _RET_ERRNO | rule.errno)
    code: list[_Instruction] = [(_LD_ABS_W, 0, 0, _OFFSET_ARGS + 8 * rule.arg)]
    if rule.op == "any_bits":
        code += [(_JMP_JSET, 0, 1, rule.values[0]), refuse]
    elif rule.op == "in":  # each match jumps to the refusal; a mismatch of the last value jumps past it
        left = len(rule.values)
        code += [(_JMP_JEQ, left - 1 - i, int(i == left - 1), value) for i, value in enumerate(rule.values)]
        code += [refuse]
    else:  # not_in: each match jumps past the refusal
        left = len(rule.values)
        code += [(_JMP_JEQ, left - i, 0, value) for i, value in enumerate(rule.values)]
        code += [refuse]
    if rule.when is None:
        return code
    arg, values = rule.when
    guard: list[_Instruction] = [(_LD_ABS_W, 0, 0, _OFFSET_ARGS + 8 * arg)]
    guard += [(_JMP_JEQ, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [*guard, (_JMP_JA, 0, 0, len(code)), *code]


def _name_part(seccomp: ModuleType, profile: Profile) -> bytes:
    try:
        filt = seccomp.SyscallFilter(seccomp.ERRNO(profile.unknown_errno))
        filt.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.ERRNO(errno.ENOSYS))
        filt.set_attr(seccomp.Attr.CTL_OPTIMIZE, 2)  # a binary tree: measured at half the cost of a linear list
        for group in profile.groups:
            action = seccomp.ALLOW if group.errno == _ALLOW else seccomp.ERRNO(group.errno)
            if group.errno == profile.unknown_errno:
                continue  # the default has this effect, and libseccomp rejects a rule that repeats it
            for name in group.names:
                if (number := _number(seccomp, profile, name)) is not None:
                    filt.add_rule_exactly(action, number)
        with tempfile.TemporaryFile() as out:
            filt.export_bpf(out)
            out.seek(0)
            return out.read()
    except OSError as err:
        raise _fault(f"libseccomp could not compile the profile: {err}", number=err.errno or 0) from err


def _fault(message: str, *, path: str = "", number: int = 0, hint: str | None = None) -> IsolationError:
    return IsolationError(message, step="seccomp", path=path, errno=number, hint=hint)
