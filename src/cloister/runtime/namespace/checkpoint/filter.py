"""The seccomp filter of CRIU while it dumps: that of a sandbox, with the calls that reading other processes needs, and no way to run code.

A dump reads what a hostile sandbox has prepared. A program that cannot start another one, and cannot map code, is hard to take over.
Runs in: supervisor, at its start. Needs: libseccomp.
"""

from __future__ import annotations

import functools
from dataclasses import replace

from cloister.linux.seccomp import ArgumentRule, Group, Profile, compile_bpf
from cloister.runtime.namespace.profile import default_profile

__all__ = ["compile_dump_filter", "dump_profile"]

_NEEDED = ("kcmp",)
_FORBIDDEN = ("execve", "execveat", "memfd_secret", "map_shadow_stack", "remap_file_pages", "chroot")
_EPERM, _PROT_EXEC = 1, 4


def dump_profile() -> Profile:
    """See :func:`compile_dump_filter`."""
    base = default_profile()
    moved = {*_NEEDED, *_FORBIDDEN}
    groups = [replace(group, names=tuple(name for name in group.names if name not in moved)) for group in base.groups]
    groups += [
        Group(_NEEDED, 0, "CRIU compares kernel objects of two processes"),
        Group(_FORBIDDEN, _EPERM, "CRIU needs none of them to dump"),
    ]
    rules = tuple(
        ArgumentRule(syscall=name, arg=2, op="any_bits", values=(_PROT_EXEC,), errno=_EPERM, reason="a dumper maps no code")
        for name in ("mmap", "mprotect", "pkey_mprotect")
    )
    kept = tuple(rule for rule in base.rules if rule.syscall not in moved)
    return replace(base, name="dump", groups=tuple(groups), rules=(*kept, *rules))


@functools.cache
def compile_dump_filter() -> bytes:
    """The compiled filter, which is always the same. Raises: IsolationError."""
    return compile_bpf(dump_profile())
