"""The seccomp filters of this runtime, compiled from ``profiles/default.json``.

Runs in: supervisor and builds, at their start. Needs: libseccomp.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from cloister.linux.seccomp import Profile, allowing, compile_bpf, load_profile
from cloister.runtime.namespace.zygotes import ZygoteFilters

__all__ = ["compile_filters", "default_profile"]


def default_profile() -> Profile:
    """The system calls that code in a sandbox may make."""
    return load_profile(Path(str(resources.files("cloister.runtime.namespace") / "profiles" / "default.json")))


def compile_filters() -> ZygoteFilters:
    """The filters of a sandbox and of a zygote, which may also enter namespaces. Raises: IsolationError."""
    profile = default_profile()
    return ZygoteFilters(zygote=compile_bpf(allowing(profile, "setns")), sandbox=compile_bpf(profile))
