"""Unpacks packages of another Debian release into a directory, with all libraries that they need, by the host's own apt.

The host's packages and its apt are left as they are: apt gets lists, a cache and a state of its own. It checks the archive's signature; no
script of a package is run. Runs in: ``cloister checkpoint install``. Needs: apt-get, dpkg-deb, Debian's archive keys, the network.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from cloister.errors import BuildError
from cloister.template.apt import AptSource, deb822
from cloister.template.bootstrap import default_mirror, host_mirror

__all__ = ["unpack_packages"]

_TIMEOUT_S = 900.0
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def unpack_packages(packages: tuple[str, ...], suite: str, target: Path, mirror: str | None, log: Callable[[str], None]) -> None:
    """Unpack ``packages`` of ``suite`` into the empty directory ``target``. ``mirror`` None: the host's, or debootstrap's default.

    Raises: BuildError.
    """
    for program, package in (("apt-get", "apt"), ("dpkg-deb", "dpkg")):
        if shutil.which(program) is None:
            raise BuildError(f"{program} is not installed", hint=f"install the package {package}, or name a CRIU by the setting checkpoint")
    if not _KEYRING.is_file():
        hint = "apt-get install debian-archive-keyring"
        raise BuildError("Debian's archive keys are missing, so packages could not be checked", hint=hint)
    uri = mirror or host_mirror(Path("/etc"), suite) or default_mirror()
    if uri is None:
        raise BuildError("no Debian mirror is known", hint="name one with --mirror URL, or install debootstrap")
    with tempfile.TemporaryDirectory(prefix="cloister-apt-", dir="/var/tmp") as name:
        work = Path(name)
        work.chmod(0o755)  # apt downloads as a user of its own
        options = _options(work, AptSource(uri, suite))
        log(f"reading the packages of {suite}")
        _run(["apt-get", *options, "-q", "update"])
        log(f"downloading {' '.join(packages)} and its libraries")
        _run(["apt-get", *options, "-q", "-y", "--no-install-recommends", "--download-only", "install", *packages])
        for file in sorted((work / "cache" / "archives").glob("*.deb")):
            _run(["dpkg-deb", "-x", str(file), str(target)])


def _options(work: Path, source: AptSource) -> list[str]:
    """Options of apt for lists, a cache and an empty list of installed packages below ``work``."""
    for directory in ("sources", "lists/partial", "cache/archives/partial"):
        (work / directory).mkdir(parents=True)
    (work / "sources" / "debian.sources").write_text(deb822([source]))
    (work / "status").touch()
    places: dict[str, str | Path] = {
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": work / "sources",
        "Dir::State::Lists": work / "lists",
        "Dir::State::Status": work / "status",
        "Dir::Cache": work / "cache",
        "Acquire::Languages": "none",
    }
    return [word for key, value in places.items() for word in ("-o", f"{key}={value}")]


def _run(argv: list[str]) -> None:
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{argv[0]} took longer than {_TIMEOUT_S:.0f} s", hint="check the network of this host") from error
    if done.returncode:
        tail = "; ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise BuildError(f"{argv[0]} failed: {tail}", hint="check the network of this host, or name a mirror with --mirror URL")
