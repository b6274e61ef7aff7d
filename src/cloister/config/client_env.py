"""The file ``<data>/api/client.env``: how clients on this machine, such as ``cloister env`` and ``cloister run``, reach the server.

The api process owns the file (mode 0600) and writes it at each start. It is the only place with the default team's key; the store has
a hash. After that key was revoked, the file contains no key.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cloister.errors import InvalidRequestError, NotFoundError, PermissionDeniedError
from cloister.model.addresses import UNRESOLVED_DOMAIN

__all__ = ["NO_KEY", "ClientEnv", "read_client_env", "server_url", "write_client_env"]

_MOST_CHARACTERS = 65_536
_REMEDY = "start the server again, it writes the file"
_UNSET = dict.fromkeys(("E2B_DEBUG", "E2B_TEAM_ID", "E2B_PROJECT_ID"))
"""Variables that would send SDKs and the E2B command line to a debugging server or a team of the vendor."""
NO_KEY = "the default API key was revoked, or its team removed: make one by `cloister key create`, and set E2B_API_KEY to it"


@dataclass(frozen=True)
class ClientEnv:
    """Address, key and domain that a client of the server needs."""

    api_url: str
    """URL of the listener without TLS, from this machine."""
    api_key: str = field(repr=False)
    """Empty if the default key was revoked."""
    domain: str = UNRESOLVED_DOMAIN
    """Domain that the server reports to clients. Never empty, because SDKs would then use their vendor's."""
    is_public: bool = False
    """Whether the operator set the domain."""
    by_tls: bool = False
    """Whether the server has a TLS listener."""
    ca_dir: Path | None = None
    """Directory of the local authority that issued the server's certificate; None if clients trust the certificate anyway."""

    def local(self) -> Mapping[str, str | None]:
        """Variables that direct the official SDKs to the listener without TLS; unset those with value None."""
        return {
            "E2B_API_URL": self.api_url,
            "E2B_SANDBOX_URL": self.api_url,
            "E2B_VOLUME_API_URL": self.api_url,
            "E2B_DOMAIN": self.domain,
            **_UNSET,
            **self._key(),
        }

    def public(self) -> Mapping[str, str | None]:
        """Variables that direct the SDKs to the domain, with TLS.

        E2B_SANDBOX_URL and E2B_VOLUME_API_URL must be unset, because SDKs prefer them to the domain.

        Raises:
            InvalidRequestError: the server has no domain.
        """
        if not self.is_public:
            raise InvalidRequestError("the server has no public domain", hint="set domain and listen_tls, and start it again")
        variables: dict[str, str | None] = {
            "E2B_DOMAIN": self.domain,
            "E2B_API_URL": f"https://api.{self.domain}",
            "E2B_SANDBOX_URL": None,
            "E2B_VOLUME_API_URL": None,
            **_UNSET,
            **self._key(),
        }
        if self.ca_dir is not None:
            variables |= {"SSL_CERT_FILE": str(self.ca_dir / "bundle.crt"), "NODE_EXTRA_CA_CERTS": str(self.ca_dir / "ca.crt")}
        return variables

    def _key(self) -> Mapping[str, str]:
        """Empty without a key, so that the caller's E2B_API_KEY stays. Old command lines read the key from the second name."""
        return {"E2B_API_KEY": self.api_key, "E2B_ACCESS_TOKEN": self.api_key} if self.api_key else {}

    def variables(self) -> Mapping[str, str | None]:
        """:meth:`public` if the server serves a public domain with TLS, else :meth:`local`."""
        return self.public() if self.by_tls and self.is_public else self.local()


def server_url(host: str, port: int) -> str:
    """The URL of a listener bound to ``host``, for programs on this machine."""
    target = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{target}]:{port}" if ":" in target else f"http://{target}:{port}"


def _path(data_dir: Path) -> Path:
    return data_dir / "api" / "client.env"


def write_client_env(data_dir: Path, env: ClientEnv) -> None:
    """Write the file atomically. It gets the owner of its directory, which is the api process."""
    path = _path(data_dir)
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    flags = {"BY_TLS": str(int(env.by_tls)), "PUBLIC": str(int(env.is_public))}
    values = {**env.local(), **flags, "CA_DIR": None if env.ca_dir is None else str(env.ca_dir)}
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        owner = path.parent.stat()
        os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
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
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would let root wait for ever
        with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
            text = file.read(_MOST_CHARACTERS) if stat.S_ISREG(os.fstat(descriptor).st_mode) else ""
        values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        ca_dir = Path(values["CA_DIR"]) if "CA_DIR" in values else None
        return ClientEnv(
            values["E2B_API_URL"],
            values.get("E2B_API_KEY", ""),
            values.get("E2B_DOMAIN", UNRESOLVED_DOMAIN),
            is_public=values.get("PUBLIC", "1" if "E2B_DOMAIN" in values else "0") == "1",  # older servers wrote public ones only
            by_tls=values.get("BY_TLS") == "1",
            ca_dir=ca_dir,
        )
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no {path}", hint="has `cloister serve` been started on this data directory?") from error
    except PermissionError as error:
        raise PermissionDeniedError(f"{path} is not readable", hint="run this as root") from error
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read: {error.strerror}", hint=_REMEDY) from error
    except KeyError as error:
        raise NotFoundError(f"{path} lacks {error}", hint=_REMEDY) from error
