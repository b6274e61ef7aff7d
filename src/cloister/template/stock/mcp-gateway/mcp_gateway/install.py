"""Installs the packages of MCP servers below one directory, and says how a server is started from there.

Each server has a directory of its own, so that no two servers' libraries meet, and a file that says what is in it: what was installed
ahead is taken as it is. Packages are root's; repositories belong to the account that servers run as, and their commands run as it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mcp_gateway.catalog import GatewayError, Plan

__all__ = ["Installer", "Start", "account_environ", "as_account"]

_STAMP = ".mcp-gateway"
_TAIL_LINES = 15
_SECRETS = ("GATEWAY_ACCESS_TOKEN",)


@dataclass(frozen=True, kw_only=True)
class Start:
    """A command that speaks MCP on standard input and output."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path | None = None


def account_environ(user: str, home: str) -> dict[str, str]:
    """This process's variables (certificates, mirrors, proxies) for a program of ``user``, without the gateway's own secrets."""
    kept = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    return {**kept, "USER": user, "LOGNAME": user, "HOME": home, "SHELL": "/bin/bash"}


def as_account(user: str, argv: tuple[str, ...]) -> tuple[str, ...]:
    """``argv`` as ``user``; unchanged when this process is not root and so cannot."""
    if os.geteuid() != 0 or user == "root":
        return argv
    return ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--", *argv)


class Installer:
    """Packages below ``root``; servers run as ``user``."""

    def __init__(self, root: Path, *, user: str, home: str, git_base: str) -> None:
        self._root = root
        self._user = user
        self._home = home
        self._git_base = git_base.rstrip("/")
        self._apt_turn = threading.Lock()

    def ready(self, plan: Plan) -> bool:
        """Whether nothing is to be done for it."""
        stamp = self._directory(plan) / _STAMP
        return bool(plan.url) or (stamp.is_file() and stamp.read_text() == _wanted(plan))

    def install(self, plan: Plan) -> None:
        """Make ``plan`` ready.

        Raises:
            GatewayError: what failed, with the end of its output.
        """
        with self._locked(plan):
            if self.ready(plan):
                return
            directory = self._directory(plan)
            if plan.apt:
                self._apt(plan)
            if plan.npm:
                _empty(directory)
                self._npm(plan, directory)
            elif plan.pypi:
                _empty(directory)
                self._pypi(plan, directory)
            else:
                self._clone(plan, directory)
            (directory / _STAMP).write_text(_wanted(plan))

    def start(self, plan: Plan) -> Start:
        """The command of a server that is ready."""
        env = {**account_environ(self._user, self._home), **plan.env}
        directory = self._directory(plan)
        if plan.repository:
            return Start(argv=as_account(self._user, ("/bin/bash", "-c", plan.command)), env=env, cwd=directory)
        programs = directory / ("node_modules/.bin" if plan.npm else "bin")
        return Start(argv=as_account(self._user, (str(programs / plan.command), *plan.args)), env=env, cwd=Path(self._home))

    def _directory(self, plan: Plan) -> Path:
        return self._root / ("repositories/" + plan.repository if plan.repository else "servers/" + re.sub(r"[^\w.-]", "_", plan.name))

    @contextlib.contextmanager
    def _locked(self, plan: Plan) -> Iterator[None]:
        directory = self._directory(plan)
        directory.parent.mkdir(parents=True, exist_ok=True)
        with (directory.parent / f".{directory.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _apt(self, plan: Plan) -> None:
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        with self._apt_turn:
            _run(plan, ("apt-get", "-q", "update"), environ, quiet=True)
            _run(plan, ("apt-get", "-q", "-y", "--no-install-recommends", "install", *plan.apt), environ, quiet=True)

    def _npm(self, plan: Plan, directory: Path) -> None:
        options = ("--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
        _run(plan, ("npm", "install", f"--prefix={directory}", *options, plan.npm), {**os.environ, "HOME": "/root"})

    def _pypi(self, plan: Plan, directory: Path) -> None:
        _run(plan, ("/usr/bin/python3", "-m", "venv", "--without-pip", str(directory)), os.environ)
        options = ("--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir", "--root-user-action=ignore")
        pip = ("/usr/bin/python3", "-m", "pip", f"--python={directory}/bin/python3")
        _run(plan, (*pip, "install", *options, *plan.pypi.split()), os.environ)

    def _clone(self, plan: Plan, directory: Path) -> None:
        environ = {**account_environ(self._user, self._home), "GIT_TERMINAL_PROMPT": "0", **plan.env}
        if not (directory / ".git").is_dir():
            _empty(directory)
            shutil.chown(directory, self._user, self._user)
            source = f"{self._git_base}/{plan.repository}"
            _run(plan, as_account(self._user, ("git", "clone", "--quiet", "--depth=1", source, str(directory))), environ)
        if plan.install:
            _run(plan, as_account(self._user, ("/bin/bash", "-c", plan.install)), environ, directory)


def _wanted(plan: Plan) -> str:
    return plan.npm or plan.pypi or shlex.join(["git", plan.repository, plan.install])


def _empty(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)


def _run(plan: Plan, argv: tuple[str, ...], environ: Mapping[str, str], cwd: Path | None = None, *, quiet: bool = False) -> None:
    print(f"{plan.name}: {shlex.join(argv)}", flush=True)
    child = subprocess.run(argv, env=dict(environ), cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if child.returncode:
        output = (child.stdout + child.stderr).strip().splitlines()[-_TAIL_LINES:]
        status = child.returncode
        end = f"exit status {status}" if status > 0 else f"ended by signal {-status}, as when memory is exhausted"
        raise GatewayError("\n".join([f"{plan.name} could not be installed ({argv[-1]}): {end}", *output]))
    sys.stdout.write("" if quiet else child.stdout)
