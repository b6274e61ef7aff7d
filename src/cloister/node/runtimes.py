"""The runtimes of this release. The only module of the server that imports an implementation of one (tests/style/test_layers.py).

Owns the list; a runtime that is not in it does not exist for the node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cloister.config.settings import Settings
from cloister.errors import CloisterError
from cloister.runtime.gvisor.install import install_built, install_given, is_built
from cloister.runtime.gvisor.kind import GvisorKind
from cloister.runtime.gvisor.probe import probe_runsc
from cloister.runtime.gvisor.program import RUNSC_DIR, find_runsc, installed_runsc
from cloister.runtime.namespace.checkpoint.criu import AUTO as AUTO_CRIU
from cloister.runtime.namespace.checkpoint.criu import CRIU_DIR, find_criu
from cloister.runtime.namespace.kind import NamespaceKind
from cloister.runtime.registry import RuntimeKind

__all__ = [
    "AUTO_CRIU",
    "RUNSC_DIR",
    "RuntimeKinds",
    "Tier",
    "criu_of",
    "describe_runtimes",
    "has_built_runsc",
    "install_runsc",
    "installed_runsc",
    "runtime_kinds",
    "unpacked_criu",
]

RuntimeKinds = Callable[[Settings], tuple[RuntimeKind, ...]]
"""What gives a node the runtimes to open."""


def runtime_kinds(settings: Settings) -> tuple[RuntimeKind, ...]:
    """Every runtime that a node can open, set up by the node's settings."""
    return (
        NamespaceKind(has_zygotes=settings.zygotes, checkpoint=settings.checkpoint, store_dir=settings.store_dir),
        GvisorKind(runsc=settings.runsc, store_dir=settings.store_dir, kernels=settings.gvisor_kernels),
    )


@dataclass(frozen=True)
class Tier:
    """A runtime on this host. ``detail`` says how it isolates, or why it does not work; ``remedy`` is empty where it works."""

    name: str
    works: bool
    detail: str
    remedy: str = ""
    is_absent: bool = False
    """It does not work because something that it needs was not installed."""


def describe_runtimes(settings: Settings) -> list[Tier]:
    """Try each runtime on this host, the weakest first; takes about a second. Needs root."""
    return [_describe_namespace(settings), _describe_gvisor(settings)]


def _describe_namespace(settings: Settings) -> Tier:
    kind = NamespaceKind(has_zygotes=settings.zygotes, checkpoint=settings.checkpoint, store_dir=settings.store_dir)
    try:
        found = [check() for check in kind.checks().values()]
    except (OSError, CloisterError) as error:
        return Tier(kind.name, False, getattr(error, "message", str(error)), getattr(error, "hint", None) or "run `cloister doctor`")
    return Tier(kind.name, True, f"namespaces, control groups and seccomp ({found[-1]}), on the host's kernel")


def _describe_gvisor(settings: Settings) -> Tier:
    is_absent = settings.runsc is None and not installed_runsc(settings.store_dir).exists()
    try:
        found = find_runsc(settings.runsc, settings.store_dir)
        probe_runsc(found.path)
    except (OSError, CloisterError) as error:
        remedy = getattr(error, "hint", None) or "see the kernel's log"
        return Tier("gvisor", False, getattr(error, "message", str(error)), remedy, is_absent)
    return Tier("gvisor", True, f"a kernel of its own for each sandbox: runsc {found.version}, {found.path}")


def has_built_runsc(settings: Settings) -> bool:
    """Whether the ``runsc`` that :func:`install_runsc` builds is installed."""
    return is_built(settings.store_dir)


def install_runsc(settings: Settings, given: Path | None, work: Path, log: Callable[[str], None]) -> None:
    """Install ``given``, or build one in the empty directory ``work``. Raises: BuildError, UnavailableError."""
    if given is None:
        install_built(settings.store_dir, work, log)
    else:
        install_given(given, settings.store_dir, work, log)


def unpacked_criu(settings: Settings) -> Path:
    """The directory in which ``cloister checkpoint install`` unpacks CRIU."""
    return settings.store_dir / CRIU_DIR


def criu_of(settings: Settings) -> tuple[str, str]:
    """The program and the version of the CRIU that the server uses, or would use. Raises: UnavailableError."""
    found = find_criu(settings.checkpoint or AUTO_CRIU, settings.store_dir)
    return found.argv[-1], found.version
