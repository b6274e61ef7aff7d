"""The file from which ``cloister env`` and ``cloister run`` learn how to reach the server of a data directory.

``<data>/api/client.env``, mode 0600, owned by the api process, which writes it at each start. It holds the default team's key, which is
in no other place: the store has only its hash.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cloister.errors import InvalidRequestError, NotFoundError, PermissionDeniedError

__all__ = ["ClientEnv", "read_client_env", "server_url", "write_client_env"]


@dataclass(frozen=True)
class ClientEnv:
    """What a client of the server needs."""

    api_url: str
    """By the listener in clear text, from this machine."""
    api_key: str = field(repr=False)
    domain: str | None = None
    by_tls: bool = False
    """Whether the server itself serves the domain by TLS."""
    ca_dir: Path | None = None
    """Where the local authority is whose certificate the server has; None: it is one that clients trust anyhow."""

    def local(self) -> Mapping[str, str | None]:
        """The variables that point the official SDKs at the server in clear text; None: to be unset."""
        variables: dict[str, str | None] = {"E2B_API_URL": self.api_url, "E2B_SANDBOX_URL": self.api_url, "E2B_API_KEY": self.api_key}
        return variables if self.domain is None else {**variables, "E2B_DOMAIN": self.domain}

    def public(self) -> Mapping[str, str | None]:
        """The variables that point them at the domain, by TLS.

        E2B_SANDBOX_URL must not be set: it would count before the domain.

        Raises:
            InvalidRequestError: the server has no domain.
        """
        if self.domain is None:
            raise InvalidRequestError("the server has no public domain", hint="set domain and listen_tls, and start it again")
        variables: dict[str, str | None] = {
            "E2B_DOMAIN": self.domain,
            "E2B_API_URL": f"https://api.{self.domain}",
            "E2B_SANDBOX_URL": None,
            "E2B_API_KEY": self.api_key,
        }
        if self.ca_dir is not None:
            variables |= {"SSL_CERT_FILE": str(self.ca_dir / "bundle.crt"), "NODE_EXTRA_CA_CERTS": str(self.ca_dir / "ca.crt")}
        return variables

    def variables(self) -> Mapping[str, str | None]:
        """Those of the two that fit how the server was set up."""
        return self.public() if self.by_tls and self.domain is not None else self.local()


def server_url(host: str, port: int) -> str:
    """The URL by which programs on this machine reach a listener bound to ``host``."""
    target = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{target}]:{port}" if ":" in target else f"http://{target}:{port}"


def _path(data_dir: Path) -> Path:
    return data_dir / "api" / "client.env"


def write_client_env(data_dir: Path, env: ClientEnv) -> None:
    """Write the file, whole or not at all."""
    path = _path(data_dir)
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    values = {**env.local(), "BY_TLS": str(int(env.by_tls)), "CA_DIR": None if env.ca_dir is None else str(env.ca_dir)}
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.writelines(f"{name}={value}\n" for name, value in values.items() if value is not None)
    partial.rename(path)


def read_client_env(data_dir: Path) -> ClientEnv:
    """Read the file.

    Raises:
        NotFoundError: no server has run on this data directory yet.
        PermissionDeniedError: the caller may not read it.
    """
    path = _path(data_dir)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, encoding="utf-8") as file:
            values = dict(line.rstrip("\n").split("=", 1) for line in file if "=" in line)
        ca_dir = Path(values["CA_DIR"]) if "CA_DIR" in values else None
        by_tls = values.get("BY_TLS") == "1"
        return ClientEnv(values["E2B_API_URL"], values["E2B_API_KEY"], values.get("E2B_DOMAIN"), by_tls=by_tls, ca_dir=ca_dir)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no {path}", hint="has `cloister serve` been started on this data directory?") from error
    except PermissionError as error:
        raise PermissionDeniedError(f"{path} is not readable", hint="run this as root") from error
    except KeyError as error:
        raise NotFoundError(f"{path} lacks {error}", hint="start the server again, it writes the file") from error
