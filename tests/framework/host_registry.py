"""Debian's docker-registry on this host itself, at a port of its own, with TLS or without."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from framework.registry import Shelf
from framework.server import free_port

__all__ = ["HostRegistry", "host_registry"]

_START_S = 20.0


class HostRegistry(Shelf):
    """A running one; ``authority`` is the certificates' when it speaks TLS."""

    def __init__(self, directory: Path, address: str, certificate: Path | None, authority: Path | None) -> None:
        self.port = free_port()
        self.address = address
        self.log = directory / "log"
        self._authority = authority
        config: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "info"},
            "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
            "http": {"addr": f"{address}:{self.port}"},
        }
        if certificate is not None:
            config["http"]["tls"] = dict.fromkeys(("certificate", "key"), str(certificate))
        path = directory / "config.json"  # which is YAML too
        path.write_text(json.dumps(config))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(["docker-registry", "serve", str(path)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def connect(self) -> http.client.HTTPConnection:
        """See :class:`Shelf`."""
        if self._authority is None:
            return http.client.HTTPConnection(self.address, self.port, timeout=30)
        context = ssl.create_default_context(cafile=str(self._authority))
        context.check_hostname = False  # this is not what is tested
        return http.client.HTTPSConnection(self.address, self.port, timeout=30, context=context)

    def wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + _START_S
        while True:
            connection = self.connect()
            try:
                connection.request("GET", "/v2/")
                connection.getresponse().read()
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.05)
            else:
                return
            finally:
                connection.close()


@contextmanager
def host_registry(
    directory: Path, *, address: str = "127.0.0.1", certificate: Path | None = None, authority: Path | None = None
) -> Iterator[HostRegistry]:
    """One for the time of a ``with``, at ``address``."""
    directory.mkdir(parents=True, exist_ok=True)
    made = HostRegistry(directory, address, certificate, authority)
    try:
        made.wait()
        yield made
    finally:
        made.process.kill()
        made.process.wait()
