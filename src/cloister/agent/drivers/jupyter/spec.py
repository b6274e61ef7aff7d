"""Reads a kernelspec, and prepares the start of its kernel: arguments, variables, the private connection file.

Source: https://jupyter-client.readthedocs.io, "Making kernels for Jupyter". Everything runs with the rights of the kernel's user.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import socket
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Connection", "Spec", "SpecError"]

_PLACE = re.compile(r"\{([A-Za-z0-9_]+)\}")
_PYTHON = re.compile(r"python(3(\.\d+)?)?")
_CHANNELS = ("shell", "iopub", "stdin", "control", "hb")


class SpecError(Exception):
    """The kernelspec cannot be used."""


@dataclass(frozen=True)
class Spec:
    """A kernelspec."""

    directory: str
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    by_message: bool = False
    """Whether the kernel is interrupted by a message, not by SIGINT."""

    @classmethod
    def read(cls, directory: str) -> Spec:
        """Raises: SpecError."""
        try:
            data: Any = json.loads((Path(directory) / "kernel.json").read_text(encoding="utf-8"))
            argv, env = data["argv"], data.get("env") or {}
            mode = data.get("interrupt_mode", "signal")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise SpecError(f"{directory}/kernel.json cannot be used: {type(error).__name__}: {error}") from error
        if not isinstance(argv, list) or not argv or not all(isinstance(word, str) and "\0" not in word for word in argv):
            raise SpecError(f"{directory}/kernel.json: argv must be a list of words")
        if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
            raise SpecError(f"{directory}/kernel.json: env must be an object of strings")
        return cls(directory, argv, env, mode == "message")

    def command(self, connection_file: str, env: Mapping[str, str]) -> list[str]:
        """The argument list. A Python without a path is the one of the prefix in which the kernelspec is installed."""
        prefix = Path(self.directory).parents[3] if len(Path(self.directory).parents) > 3 else Path("/usr")
        places = {"connection_file": connection_file, "resource_dir": self.directory, "prefix": str(prefix)}
        argv = [_PLACE.sub(lambda found: places.get(found[1], found[0]), word) for word in self.argv]
        if _PYTHON.fullmatch(argv[0]):
            beside = prefix / "bin" / argv[0]
            found = str(beside) if beside.exists() else shutil.which(argv[0], path=env.get("PATH"))
            argv[0] = found or shutil.which("python3", path=env.get("PATH")) or argv[0]
        return argv

    def environment(self, given: Mapping[str, str], runtime: Path) -> dict[str, str]:
        """``given`` with the kernelspec's own variables, which may refer to it as ``${NAME}``; ``runtime`` is for the kernels' files."""
        own = {name: string.Template(value).safe_substitute(given) for name, value in self.env.items()}
        env = {**given, **own, "JPY_PARENT_PID": str(os.getpid()), "JUPYTER_RUNTIME_DIR": str(runtime)}
        env.pop("CLOISTER_KERNEL_FD", None)
        return env


class Connection:
    """The kernel's addresses: ports of its own loopback address, and the key that every message needs.

    It uses TCP, since most kernels that are not built on Python know nothing else. The ingress reaches only 127.0.0.1, and every kernel has
    another address.
    """

    def __init__(self) -> None:
        self.key = os.urandom(32).hex()
        self.ip = ".".join(["127", *(str(random.SystemRandom().randrange(1, 255)) for _ in range(3))])
        self.ports: dict[str, int] = {}
        taken = []
        try:
            for channel in _CHANNELS:
                probe = socket.socket()
                taken.append(probe)
                probe.bind((self.ip, 0))
                self.ports[channel] = probe.getsockname()[1]
        finally:
            for probe in taken:
                probe.close()

    def address(self, channel: str) -> str:
        """The address for ZeroMQ."""
        return f"tcp://{self.ip}:{self.ports[channel]}"

    def write(self, path: Path, kernel_name: str) -> None:
        """Write the connection file, for its owner only."""
        data: dict[str, str | int] = {f"{channel}_port": port for channel, port in self.ports.items()}
        data |= {"ip": self.ip, "transport": "tcp", "key": self.key, "signature_scheme": "hmac-sha256", "kernel_name": kernel_name}
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            json.dump(data, file)
