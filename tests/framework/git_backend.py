"""A git server for tests: ``git http-backend`` as a WSGI application with basic authentication.

::

    /public/<name>.git    anybody reads, USER writes
    /private/<name>.git   USER reads and writes, READER reads

A repository is made, bare and empty, by the first request that names it; names that begin with ``missing`` stay missing.
Source: git-http-backend(1), RFC 3875 (CGI).
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from werkzeug.wsgi import get_input_stream

__all__ = ["PASSWORD", "READER", "USER", "GitBackend"]

USER, READER, PASSWORD = "ada", "grace", "correct-horse"
_PATH = re.compile(r"/(public|private)/([a-z][a-z0-9-]*)\.git/")
_Start = Callable[[str, list[tuple[str, str]]], object]


class GitBackend:
    """The WSGI application; ``root`` holds the repositories."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(self, environ: dict[str, Any], start: _Start) -> Iterable[bytes]:
        """Answer one request."""
        found = _PATH.match(environ["PATH_INFO"])
        if found is None or found[2].startswith("missing"):
            return _refuse(start, "404 Not Found")
        user = _user_of(environ.get("HTTP_AUTHORIZATION", ""))
        writes = "git-receive-pack" in environ["PATH_INFO"] + environ.get("QUERY_STRING", "")
        if user is None and (writes or found[1] == "private"):
            return _refuse(start, "401 Unauthorized", ("WWW-Authenticate", 'Basic realm="git"'))
        if writes and user != USER:
            return _refuse(start, "403 Forbidden")
        self._make(self._root / found[1] / f"{found[2]}.git")
        return self._run(environ, user, start)

    def _make(self, repository: Path) -> None:
        if not repository.exists():
            repository.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["git", "init", "-q", "--bare", "--initial-branch=main", str(repository)], check=True)

    def _run(self, environ: dict[str, Any], user: str | None, start: _Start) -> Iterable[bytes]:
        variables = {name: value for name, value in environ.items() if isinstance(value, str) and name.isupper()}
        variables |= {"PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(self._root), "GIT_HTTP_EXPORT_ALL": "1"}
        variables |= {"REMOTE_USER": user} if user else {}
        variables |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
        with tempfile.TemporaryFile() as body:
            shutil.copyfileobj(get_input_stream(environ), body)  # git sends large packs in chunks, which CGI has no length for
            variables["CONTENT_LENGTH"] = str(body.tell())
            body.seek(0)
            answer = subprocess.run(["git", "http-backend"], stdin=body, capture_output=True, env=variables, check=True).stdout
        head, _, content = answer.partition(b"\r\n\r\n")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in head.decode().split("\r\n"))]
        status = next((value for name, value in headers if name == "Status"), "200 OK")
        start(status, [header for header in headers if header[0] != "Status"])
        return [content]


def _user_of(header: str) -> str | None:
    """Who has given the right password, or None."""
    for user in (USER, READER):
        if header == "Basic " + base64.b64encode(f"{user}:{PASSWORD}".encode()).decode():
            return user
    return None


def _refuse(start: _Start, status: str, *headers: tuple[str, str]) -> Iterable[bytes]:
    start(status, [("Content-Type", "text/plain"), *headers])
    return [status.encode()]
