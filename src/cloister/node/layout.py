"""The files below the data, store and run directory: their modes and owners, independent of the umask.

Owns the table of modes, and makes the directories that a server begins with. docs/files.md shows the table, and tests compare it with a
running server. A directory of ours with a wrong mode is corrected, and the log says so. A directory of another owner is refused.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from cloister.config.settings import Settings
from cloister.errors import SettingsError
from cloister.linux.files import make_directory

__all__ = ["LAYOUT", "LayoutEntry", "make_directories", "render"]


@dataclass(frozen=True)
class LayoutEntry:
    """One row. ``pattern`` is a path below the directory. ``*`` matches a name or a part of one, a last ``**`` everything below."""

    directory: str
    """``data``, ``store`` or ``run``."""
    pattern: str
    mode: int
    purpose: str
    owner: str = "root"
    """``root``, or ``api`` or ``egress`` for the users of these processes."""


_SEEN_INSIDE = "what sandboxes see, in the modes that they see"
LAYOUT: tuple[LayoutEntry, ...] = (
    LayoutEntry("data", "node", 0o700, "of the supervisor"),
    LayoutEntry("data", "node/sandboxes", 0o700, "journal"),
    LayoutEntry("data", "node/sandboxes/*", 0o700, "one sandbox"),
    LayoutEntry("data", "node/sandboxes/*/check", 0o755, "its disk while that is checked"),
    LayoutEntry("data", "node/sandboxes/*/check/**", 0, "as the checker sees it"),
    LayoutEntry("data", "node/sandboxes/*/guest", 0o755, "its first program, on gVisor"),
    LayoutEntry("data", "node/sandboxes/*/guest/*", 0o755, _SEEN_INSIDE),
    LayoutEntry("data", "node/sandboxes/*/memory", 0o700, "its saved memory"),
    LayoutEntry("data", "node/sandboxes/*/memory.tmp", 0o700, "the same, while it is being written"),
    LayoutEntry("data", "node/sandboxes/*/memory*/**", 0, "as CRIU or gVisor writes it"),
    LayoutEntry("data", "node/sandboxes/*/*", 0o600, "its record and disk"),
    LayoutEntry("data", "node/captures", 0o700, "captures with memory"),
    LayoutEntry("data", "node/captures/*", 0o700, "one capture"),
    LayoutEntry("data", "node/captures/*/check", 0o755, "its disk while that is checked"),
    LayoutEntry("data", "node/captures/*/check/**", 0, "as the checker sees it"),
    LayoutEntry("data", "node/captures/*/memory", 0o700, "its saved memory"),
    LayoutEntry("data", "node/captures/*/memory.tmp", 0o700, "the same, while it is being written"),
    LayoutEntry("data", "node/captures/*/memory*/**", 0, "as CRIU or gVisor writes it"),
    LayoutEntry("data", "node/captures/*/*", 0o600, "its disk, and the token of the captured sandbox"),
    LayoutEntry("data", "node/disks", 0o700, "disks made ahead"),
    LayoutEntry("data", "node/disks/*", 0o600, "one disk"),
    LayoutEntry("data", "node/gvisor", 0o700, "booted templates, saved with their memory"),
    LayoutEntry("data", "node/gvisor/*", 0o700, "one of them"),
    LayoutEntry("data", "node/gvisor/*/**", 0, "as gVisor writes it, and its disk"),
    LayoutEntry("data", "node/proc-*", 0o555, "fixed files of /proc"),
    LayoutEntry("data", "node/proc-*/**", 0, _SEEN_INSIDE),
    LayoutEntry("data", "node/volumes", 0o700, "volumes of teams"),
    LayoutEntry("data", "node/volumes/*", 0o700, "one volume"),
    LayoutEntry("data", "node/volumes/*/*", 0o600, "its disk image; back it up (docs/howto/volumes.md)"),
    LayoutEntry("data", "node/content", 0o700, "work of the processes that serve volumes"),
    LayoutEntry("data", "node/content/*", 0o700, "of one process"),
    LayoutEntry("data", "node/content/*/**", 0, "as it sees it"),
    LayoutEntry("data", "node/boxes", 0o700, "sandboxes of builds"),
    LayoutEntry("data", "node/boxes/empty", 0o755, "an empty lower layer"),
    LayoutEntry("data", "node/boxes/*", 0o700, "one sandbox of a build"),
    LayoutEntry("data", "node/boxes/*/**", 0, "its disk and work in progress"),
    LayoutEntry("data", "node/builds", 0o700, "clients' builds"),
    LayoutEntry("data", "node/builds/*", 0o700, "one build"),
    LayoutEntry("data", "node/builds/*/*", 0o600, "its request, state and log"),
    LayoutEntry("data", "node/node_id", 0o600, "id of the node"),
    LayoutEntry("data", "node/authority.secret", 0o600, "keys of the sandboxes' authorities follow from it"),
    LayoutEntry("data", "node/drain.json", 0o600, "an operator drains the node"),
    LayoutEntry("data", "node/recent.json", 0o600, "templates asked for of late"),
    LayoutEntry("data", "node/ended.jsonl", 0o600, "why sandboxes ended"),
    LayoutEntry("data", "node/damaged", 0o700, "records of sandboxes that could not be read"),
    LayoutEntry("data", "node/damaged/*", 0o600, "one record"),
    LayoutEntry("data", "hostlayer", 0o700, "host layers, perhaps with the host's credentials"),
    LayoutEntry("data", "hostlayer/**", 0, _SEEN_INSIDE),
    LayoutEntry("data", "api", 0o700, "of the api process", "api"),
    LayoutEntry("data", "api/cluster", 0o700, "keys and certificates of a cluster (docs/howto/cluster.md)", "api"),
    LayoutEntry("data", "api/cluster/*", 0o600, "one of them; back them up", "api"),
    LayoutEntry("data", "api/uploads", 0o700, "archives for builds", "api"),
    LayoutEntry("data", "api/uploads/.key", 0o600, "signs upload links", "api"),
    LayoutEntry("data", "api/uploads/.incoming", 0o700, "uploads under way", "api"),
    LayoutEntry("data", "api/uploads/**", 0, "archives, as builds see them", "api"),
    LayoutEntry("data", "api/audit", 0o700, "audit log", "api"),
    LayoutEntry("data", "api/audit/*", 0o700, "records of one team, or of the operator", "api"),
    LayoutEntry("data", "api/audit/*/*", 0o600, "some records; the state of the chain", "api"),
    LayoutEntry("data", "api/logs", 0o700, "sandboxes' logs", "api"),
    LayoutEntry("data", "api/logs/*", 0o600, "one log", "api"),
    LayoutEntry("data", "api/secrets.key", 0o600, "encrypts the teams' secrets; back it up, apart from the database", "api"),
    LayoutEntry("data", "api/volumes.key", 0o600, "signs the tokens of volumes", "api"),
    LayoutEntry("data", "api/identity.json", 0o600, "signs identity tokens", "api"),
    LayoutEntry("data", "api/backups", 0o700, "copies of the database from before a change of its schema", "api"),
    LayoutEntry("data", "api/backups/*", 0o600, "one copy", "api"),
    LayoutEntry("data", "replaced", 0o700, "what `cloister restore --replace` has replaced"),
    LayoutEntry("data", "replaced/**", 0, "as it was"),
    LayoutEntry("data", "api/*", 0o600, "database, key of the default team", "api"),
    LayoutEntry("data", "ca", 0o755, "local authority, for clients to read"),
    LayoutEntry("data", "ca/ca.key", 0o600, "its key"),
    LayoutEntry("data", "ca/*", 0o644, "its certificate, bundle"),
    LayoutEntry("store", ".", 0o700, "the store"),
    LayoutEntry("store", "layers", 0o700, "layers"),
    LayoutEntry("store", "layers/*", 0o755, "one layer"),
    LayoutEntry("store", "layers/*/layer.json", 0o600, "what is recorded of it"),
    LayoutEntry("store", "layers/*/rootfs/**", 0, _SEEN_INSIDE),
    LayoutEntry("store", "agent", 0o700, "agent trees"),
    LayoutEntry("store", "agent/**", 0, _SEEN_INSIDE),
    LayoutEntry("store", "tmp", 0o700, "work in progress"),
    LayoutEntry("store", "tmp/*", 0o700, "of one step"),
    LayoutEntry("store", "tmp/*/**", 0, _SEEN_INSIDE),
    LayoutEntry("store", "freshness.json", 0o600, "which packages of stock templates have updates"),
    LayoutEntry("store", "builders", 0o700, "data directories of builds' own nodes"),
    LayoutEntry("store", "builders/*", 0o700, "one, laid out like a data directory"),
    LayoutEntry("store", "builders/*/**", 0, "as below the data directory"),
    LayoutEntry("store", "criu", 0o755, "CRIU of `cloister checkpoint install`"),
    LayoutEntry("store", "criu/**", 0, "its files, as Debian packs them"),
    LayoutEntry("store", "gvisor", 0o755, "of `cloister runtime install gvisor`"),
    LayoutEntry("store", "gvisor/runsc", 0o755, "gVisor's program"),
    *(
        LayoutEntry("store", f"{name}{below}", mode, purpose)
        for name, purpose in (
            ("templates", "records of templates"),
            ("builds", "records of builds"),
            ("steps", "records of steps"),
            ("logs", "logs of steps"),
            ("packed", "archives of trees for other machines"),
            ("incoming", "archives of trees that are being fetched"),
            ("locks", "locks"),
            ("servers", "data directories of servers that use the store"),
        )
        for below, mode in (("", 0o700), ("/*", 0o600))
    ),
    LayoutEntry("run", "network.lock", 0o600, "lock of all servers' network"),
    LayoutEntry("run", "runsc.json", 0o600, "the runsc that has worked since the host booted"),
    LayoutEntry("run", "instances", 0o755, "claims of instance numbers"),
    LayoutEntry("run", "instances/*", 0o600, "one claim"),
    LayoutEntry("run", "*", 0o755, "one server; the api process goes through it"),
    LayoutEntry("run", "*/supervisor.sock", 0o600, "its socket", "api"),
    LayoutEntry("run", "*/values.sock", 0o600, "socket of the api process for values of headers", "egress"),
    LayoutEntry("run", "*/records", 0o700, "copies of the journal's records"),
    LayoutEntry("run", "*/records/*", 0o600, "one copy"),
    LayoutEntry("run", "*/netns", 0o700, "network namespaces"),
    LayoutEntry("run", "*/netns/**", 0, "one, in the kernel's own modes"),
    LayoutEntry("run", "*/gvisor", 0o700, "sandboxes on gVisor"),
    LayoutEntry("run", "*/gvisor/**", 0, "their configuration, and the notes of runsc"),
    LayoutEntry("run", "*/zones", 0o700, "slot makers"),
    LayoutEntry("run", "*/zones/*", 0o700, "one slot maker"),
    LayoutEntry("run", "*/zones/*/*", 0o600, "its socket and record"),
)
"""The first row that matches a path applies. A server makes the data and the run directory themselves with mode 0755."""
_MODE_UNCHECKED = 0
_STORE_MARK = "layers"


def make_directories(settings: Settings) -> list[tuple[Path, int]]:
    """Make the directories that a node needs. Returns those whose mode was corrected, each with its old mode.

    Raises:
        SettingsError: one of them is no directory of root's, or the store holds files of another program.
    """
    roots = {"data": settings.data_dir, "store": settings.store_dir, "run": settings.run_dir}
    fixed = [("data", ""), ("run", ""), ("store", ""), ("data", "node"), ("data", "hostlayer"), ("run", "instances")]
    _refuse_foreign_store(settings.store_dir)
    corrected = []
    for name, below in fixed:
        path = roots[name] / below
        mode = _mode_of(name, below)
        try:
            was = make_directory(path, mode or 0o755, keep=mode is None)
        except OSError as error:
            remedy = f"remove it, or give another {name}_dir"
            raise SettingsError(f"setting {name}_dir: {path} cannot be a directory of the server's: {error.strerror}; {remedy}") from error
        if was is not None:
            corrected.append((path, was))
    return corrected


def _mode_of(directory: str, below: str) -> int | None:
    """The mode of a directory. None: it is the operator's, and gets a mode only when it is made here."""
    return next((place.mode for place in LAYOUT if place.directory == directory and place.pattern == (below or ".")), None)


def _refuse_foreign_store(store: Path) -> None:
    """The store becomes 0700: a directory that other programs use would be closed to them."""
    if store.is_dir() and not (store / _STORE_MARK).is_dir() and any(store.iterdir()):
        remedy = "give a directory that is empty or does not exist"
        raise SettingsError(f"setting store_dir: {store} holds other things than templates; {remedy}")


def render() -> str:
    """docs/files.md."""
    head = """# Files and their modes

<!-- Generated from src/cloister/node/layout.py by
`python -m cloister.node.layout docs/files.md`; do not edit. -->

The table has the files that a server creates below its data, store and run directories, under any
umask. A path has the mode of the first matching row; `*` is any name or part of one, `**` is
everything below. Mode `-` is not set by the server: the file is part of a sandbox's file system.
The data and run directories are 0755 if the server creates them. The server corrects a directory
with another mode at its next start, and logs it.

| path | mode | owner | purpose |
| --- | --- | --- | --- |
"""
    rows = []
    for place in LAYOUT:
        path = f"<{place.directory}>" if place.pattern == "." else f"<{place.directory}>/{place.pattern}"
        mode = "-" if place.mode == _MODE_UNCHECKED else f"{place.mode:04o}"
        rows.append(f"| `{path}` | {mode} | {place.owner} | {place.purpose} |\n")
    return head + "".join(rows)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(), encoding="utf-8")
