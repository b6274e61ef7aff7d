"""``WORKDIR``: makes a directory and its missing parents and gives them to the user; an existing directory stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cloister.agent.build.paths import Directories, absolute
from cloister.agent.build.users import find_user
from cloister.errors import InvalidRequestError

__all__ = ["run"]

_ETC = Path("/etc")


def run(params: dict[str, Any]) -> dict[str, Any]:
    """``path``, ``user``, ``workdir`` (where a relative path begins; "" is the root). Returns the absolute ``path``,
    and whether it was ``made``.
    """
    user = find_user(params["user"], _ETC)
    if user is None:
        raise InvalidRequestError(f"invalid username: '{params['user']}'")
    path = absolute(params["path"], params["workdir"], user.home)
    made = Directories((user.uid, user.gid)).ensure(path)
    return {"path": path, "made": made}
