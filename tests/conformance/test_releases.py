"""Old releases of the SDKs, each in its own environment: supported features, and no request to their vendor.

``docs/compatibility.md`` is the table of this. A resolver notes every name that a release asks for, and knows those of this machine only.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cloister.config.client_env import read_client_env
from framework.pretend_domain import PretendDomain, pretend_domain
from framework.server import Server, running_server

pytestmark = [pytest.mark.root, pytest.mark.templates]
ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent / "releases"
PROGRAMS = ROOT / "tests" / "framework" / "programs"
NAME = "old.test"
RELEASES = tuple(sorted([path.stem for path in HERE.glob("py-*.lock")] + [path.name for path in HERE.glob("js-*")]))
_BY_DOMAIN_ONLY = ("py-1.0", "py-1.5", "py-2.0", "js-1.0", "js-1.5", "js-2.0")
"""They know no E2B_API_URL."""
_TLS_TO_CLEAR_TEXT = re.compile(r"WRONG_VERSION_NUMBER|wrong version number|packet length too long")
_WORKS: dict[str, Any] = {
    "create": True,
    "is_running": True,
    "run_code": ["0\n1\n", "True", "ZeroDivisionError"],
    "commands": ["one\n", "one\n", "two\n", "CommandExit"],
    "files": ["text é", ["a b.txt"]],
    "list": True,
    "connect": "again\n",
    "set_timeout": None,
    "kill": [True, False],
}
_NOT: dict[tuple[str, str], str] = {
    ("py-1.0", "files"): 'has no field named "size"',
    ("py-1.5", "secure"): "code interpreter SDKs before 2.0 do not send it",
    ("js-1.5", "secure"): "401",
}
"""Steps that cannot work in a release, and what it says. The same is in the documentation."""
_PARALLEL = 3

Runs = dict[tuple[str, str], "Future[dict[str, Any]]"]


def _command(release: str) -> tuple[str, ...]:
    language, _, _ = release.partition("-")
    if language == "js":
        return ("node", str(PROGRAMS / "any_sdk.mjs"))
    return (str(ROOT / ".venv-releases" / release / "bin" / "python"), str(PROGRAMS / "any_sdk.py"))


def _use(domain: PretendDomain, release: str, env: dict[str, str]) -> dict[str, Any]:
    done = domain.run(*_command(release), env=env, cwd=HERE / release if release.startswith("js") else None, timeout=150)
    assert done.returncode == 0, f"{release}: {done.stdout}\n{done.stderr}"
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def _skip_missing() -> None:
    missing = [name for name in RELEASES if not (HERE / name / "node_modules").is_dir() and not (ROOT / ".venv-releases" / name).is_dir()]
    if missing or shutil.which("node") is None:
        pytest.skip(f"not installed, which scripts/test does: {', '.join(missing) or 'Node'}")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PretendDomain]:
    """A domain, and the names that were asked for."""
    _skip_missing()
    with pretend_domain(NAME, tmp_path_factory.mktemp("releases")) as made:
        yield made


@pytest.fixture(scope="module")
def runs(server: Server, domain: PretendDomain) -> Iterator[Runs]:
    """Each release with ``cloister env`` of a server with a domain and TLS (``tls``), and of one on loopback without (``plain``)."""
    port = _free_port()
    with (
        running_server("--listen-tls", f"127.0.0.1:{port}", "--domain", f"{NAME}:{port}") as site,
        ThreadPoolExecutor(_PARALLEL) as pool,
    ):
        public = {name: value for name, value in read_client_env(site.data_dir).public().items() if value is not None}
        by_mode = {"tls": public, "plain": server.environ}
        yield {(name, mode): pool.submit(_use, domain, name, env) for name in RELEASES for mode, env in by_mode.items()}


def _check(release: str, seen: dict[str, Any], steps: set[str]) -> None:
    for step in steps:
        wanted: Any = _WORKS.get(step)
        got = seen[step]
        if (refusal := _NOT.get((release, step))) is not None:
            assert refusal in str(got), (release, step, got)
        elif step == "commands":
            assert got[:3] == wanted[:3], (release, got)
            assert got[3].startswith(wanted[3]), (release, got)
        else:
            assert got == wanted, (release, step, got)


@pytest.mark.parametrize("release", RELEASES)
def test_release_with_a_domain_and_tls(runs: Runs, release: str) -> None:
    """With ``cloister env`` of a server with a domain and TLS, a release works except for the documented gaps."""
    seen = runs[release, "tls"].result()
    assert "create" in seen
    assert seen.get("host") == NAME, seen
    _check(release, seen, set(_WORKS))
    assert seen["timeout"][0].startswith("Timeout"), seen["timeout"]
    assert seen["timeout"][1:] == [True, "2"]
    if (release, "secure") in _NOT:
        _check(release, seen, {"secure"})


@pytest.mark.parametrize("release", RELEASES)
def test_release_without_a_domain(runs: Runs, release: str) -> None:
    """On a loopback server without TLS a release works, or fails at the TLS handshake before it sends anything."""
    seen = runs[release, "plain"].result()
    if release in _BY_DOMAIN_ONLY:
        assert set(seen) == {"create"}
        assert _TLS_TO_CLEAR_TEXT.search(seen["create"]), seen
        return
    assert seen["host"] == "localhost"
    assert _TLS_TO_CLEAR_TEXT.search(seen["run_code"]), seen
    _check(release, seen, set(_WORKS) - {"run_code"})


def test_no_release_looks_its_vendors_hosts_up(runs: Runs, domain: PretendDomain) -> None:
    """Through all of it, no name is asked for but those below the server's domain and ``localhost``."""
    for run in runs.values():
        run.exception()
    strange = {name for name in domain.asked if not name.endswith((f".{NAME}", ".localhost", "localhost"))}
    assert strange == set()
    assert any(name.startswith("49999-") for name in domain.asked)


def test_the_resolver_would_tell(domain: PretendDomain) -> None:
    """A release without a domain looks up its vendor's hosts, and the resolver records it. So the test above can fail."""
    asked = set(domain.asked)
    _use(domain, "py-1.5", {"E2B_API_KEY": "e2b_" + "0" * 40})
    told = domain.asked - asked
    domain.asked.difference_update(told)
    assert any(name.startswith("api.") and not name.endswith((NAME, "localhost")) for name in told)
