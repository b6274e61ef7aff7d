"""The first layer: unpacks the packages of a Debian release into an empty tree, with the host's debootstrap.

Only the first stage runs here: it downloads, checks the archive's signature and unpacks. No file of the new tree is executed on the
host (invariant I1). The second stage, a step in the sandbox, configures the packages. No foreign code has touched the tree before it.
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cloister.errors import BuildError, DeadlineError
from cloister.protocol.agent import DEFAULT_PATH
from cloister.template.apt import AptSource, deb822, debian_sources, has_credentials, host_codename, security_mirror
from cloister.template.stock import BASE_SUITE, StockStep

__all__ = ["Bootstrap", "default_mirror", "fetch", "host_bootstrap", "host_mirror", "layer_sources", "unpack"]

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SCRIPTS = Path("/usr/share/debootstrap/scripts")
_SANDBOXED = """
# /proc and /dev are the sandbox's own, and there it cannot make device nodes.
setup_proc () { :; }
setup_dynamic_devices () { :; }
check_sane_mount () { :; }
"""


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """The source of the first layer. ``mirror`` None: debootstrap's default. ``envs``: proxies for its downloads."""

    mirror: str | None = None
    envs: Mapping[str, str] = field(default_factory=dict)
    debootstrap: str = "debootstrap"
    keyring: Path = _KEYRING
    tarball: Path | None = None
    """Packages that :func:`fetch` has downloaded and checked before, in place of the mirror; root's, as it is not checked again."""


def default_mirror(debootstrap: str = "debootstrap") -> str | None:
    """The default mirror of the host's debootstrap for Debian. None: it names none."""
    program = shutil.which(debootstrap)
    if program is None:
        return None
    match = re.search(r'^DEF_MIRROR="(\S+/debian)"', Path(program).read_text(errors="replace"), re.MULTILINE)
    return match[1] if match else None


def host_mirror(etc: Path, suite: str) -> str | None:
    """The archive that the host's own apt uses. None: the host is no Debian."""
    sources = debian_sources(etc / "apt", host_codename(etc / "os-release"), suite)
    return next((source.uri for source in sources if source.suite == suite and not has_credentials(source.uri)), None)


def host_bootstrap(mirror: str | None = None, tarball: Path | None = None) -> Bootstrap:
    """The bootstrap by this host's own apt configuration and environment."""
    envs = {key: value for key, value in os.environ.items() if key.lower() in ("http_proxy", "https_proxy", "no_proxy")}
    return Bootstrap(mirror=mirror or host_mirror(Path("/etc"), BASE_SUITE), envs=envs, tarball=tarball)


def layer_sources(suite: str, mirror: str) -> str:
    """The apt sources that stay in the layer, for use without a host layer."""
    sources = [AptSource(mirror, suite), AptSource(mirror, f"{suite}-updates")]
    if (security := security_mirror(mirror)) is not None:
        sources.append(AptSource(security, f"{suite}-security"))
    return deb822(sources)


def unpack(target: Path, step: StockStep, bootstrap: Bootstrap, log: Callable[[bytes], None]) -> None:
    """Download, check and unpack ``step.suite`` and ``step.packages`` into the empty directory ``target``. Blocking.

    Raises:
        BuildError: debootstrap or the archive's keys are missing, or it failed.
        DeadlineError: the step ran out of time.
    """
    _run_debootstrap(["--foreign", *([f"--unpack-tarball={bootstrap.tarball}"] if bootstrap.tarball else [])], target, step, bootstrap, log)
    _empty_dev(target / "dev")
    for name in ("proc", "sys"):
        if (target / name).is_symlink():  # debootstrap makes a link inside a container
            (target / name).unlink()
        (target / name).mkdir(exist_ok=True)
    with (target / "debootstrap" / "functions").open("a") as file:
        file.write(_SANDBOXED)


def fetch(tarball: Path, step: StockStep, bootstrap: Bootstrap, log: Callable[[bytes], None]) -> None:
    """Download and check what :func:`unpack` needs, and write it to the new file ``tarball`` (``.tgz``). Blocking. Raises: as that."""
    with tempfile.TemporaryDirectory(dir=tarball.absolute().parent) as directory:
        partial = Path(directory) / tarball.name
        _run_debootstrap([f"--make-tarball={partial}"], Path(directory) / "tree", step, bootstrap, log)
        partial.rename(tarball)


def _run_debootstrap(options: list[str], target: Path, step: StockStep, bootstrap: Bootstrap, log: Callable[[bytes], None]) -> None:
    if shutil.which(bootstrap.debootstrap) is None:
        raise BuildError("debootstrap is not installed", step=step.name, hint="apt-get install debootstrap")
    if not bootstrap.keyring.is_file():
        raise BuildError(
            f"Debian's archive keys ({bootstrap.keyring}) are missing, so packages could not be checked", step=step.name,
            hint="apt-get install debian-archive-keyring",
        )  # fmt: skip
    code = _run(_argv(options, target, step, bootstrap), dict(bootstrap.envs), step.timeout_s, log)
    if code != 0:
        raise BuildError(f"debootstrap ended with exit code {code}", step=step.name)


def _argv(options: list[str], target: Path, step: StockStep, bootstrap: Bootstrap) -> list[str]:
    argv = [bootstrap.debootstrap, *options, "--variant=minbase", "--force-check-gpg", f"--keyring={bootstrap.keyring}"]
    if step.packages:
        argv.append(f"--include={','.join(step.packages)}")
    mirror = bootstrap.mirror or default_mirror(bootstrap.debootstrap)
    if mirror is None:
        raise BuildError("no Debian mirror is known", step=step.name, hint="name one with --mirror URL")
    argv += [step.suite, str(target), mirror]
    if not (_SCRIPTS / step.suite).exists():
        argv.append(str(_SCRIPTS / "sid"))
    return argv


def _run(argv: list[str], envs: dict[str, str], timeout_s: float, log: Callable[[bytes], None]) -> int:
    environment = {"PATH": DEFAULT_PATH, "LC_ALL": "C.UTF-8", **envs}
    deadline = time.monotonic() + timeout_s
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                while True:
                    if not selector.select(max(0.0, deadline - time.monotonic())):
                        raise DeadlineError(f"debootstrap took longer than {timeout_s:.0f} s")
                    if not (chunk := os.read(process.stdout.fileno(), 65536)):
                        break
                    log(chunk)
        except BaseException:
            os.killpg(process.pid, 9)
            raise
        return process.wait()


def _empty_dev(dev: Path) -> None:
    """A layer must hold no device nodes. Sandboxes have a /dev of their own."""
    for path in dev.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
