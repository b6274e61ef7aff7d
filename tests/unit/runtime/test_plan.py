"""The set-up of a slot: a disk of an earlier sandbox is left as it is."""

from __future__ import annotations

from cloister.model.resources import Limits
from cloister.runtime.namespace.plan import agent_payload, setup_strings


def strings(*, has_disk: bool) -> list[str]:
    """Those of a sandbox's packet."""
    return setup_strings(agent_payload({}, "box", "/log", has_disk=has_disk), Limits(), "box", [0])


def keys(found: list[str]) -> set[str]:
    """Their kinds."""
    return {text.partition("=")[0] for text in found}


def test_nothing_is_written_to_a_disk_of_an_earlier_sandbox() -> None:
    """The supervisor's files are there already, or the sandbox has put something else in their place."""
    assert {"own", "write"} <= keys(strings(has_disk=False))
    assert not {"own", "write"} & keys(strings(has_disk=True))
    assert "kept=1" in strings(has_disk=True)
    assert "kept" not in keys(strings(has_disk=False))


def test_each_start_has_another_boot_id() -> None:
    """Programs that compare it see that the sandbox was started again."""
    ids = {text for _ in range(2) for text in strings(has_disk=True) if text.startswith("procfile=sys/kernel/random/boot_id")}
    assert len(ids) == 2
