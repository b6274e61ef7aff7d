"""The steps that keep the audit log to those that it is for, and the attacks that notice when one is gone."""

from __future__ import annotations

from framework.proved_step import Step

__all__ = ["AUDIT_STEPS"]

_API = "src/cloister/api/audit.py"

AUDIT_STEPS = (
    Step("audit: a team's own records", _API, "            owner=owner,\n", "            owner=None,\n", "see_the_records_of_another"),
    Step(
        "audit: ids and no query",
        _API,
        "return made or _NOT_OF_IDS",
        "return request.path_qs or _NOT_OF_IDS",
        "bring_a_secret_into_the_log",
    ),
    Step(
        "audit: the rights of the log's owner",
        "src/cloister/cli/recording.py",
        "        os.seteuid(owner.st_uid)\n",
        "        os.seteuid(0)\n",
        "make_root_write_elsewhere",
    ),
)
