"""Which runtime a new sandbox gets: request, team, template, default, and what the operator forbids."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloister.errors import CloisterError, InvalidRequestError, PermissionDeniedError, UnavailableError
from cloister.runtime.base import RuntimeCapabilities
from cloister.runtime.registry import RuntimeRules, Runtimes


def runtime(name: str, *, builds: bool = False) -> Any:
    """As much of a runtime as a choice looks at."""
    return cast("Any", SimpleNamespace(name=name, capabilities=RuntimeCapabilities(run_steps=builds)))


def runtimes(default: str = "weak", rules: RuntimeRules | None = None, unavailable: dict[str, str] | None = None) -> Runtimes:
    """Three runtimes, of which the weakest can build."""
    found = [runtime("weak", builds=True), runtime("middle"), runtime("strong")]
    return Runtimes(found, default, rules=rules, unavailable=unavailable)


@pytest.mark.parametrize(
    ("team", "named", "of_template", "chosen"),
    [
        ("", None, None, "weak"),
        ("any", "middle", None, "middle"),
        ("any", None, "middle", "middle"),
        ("any", "strong", "middle", "strong"),
        ("any", "weak", "strong", "weak"),
        ("any", "auto", None, "strong"),
        ("any", None, "auto", "strong"),
        ("guarded", None, None, "strong"),
        ("guarded", None, "weak", "strong"),
        ("guarded", "strong", None, "strong"),
        ("guarded", "auto", None, "strong"),
    ],
)
def test_the_nearest_choice_counts(team: str, named: str | None, of_template: str | None, chosen: str) -> None:
    """A request comes before a template and that before the default; what the operator has chosen for a team comes before all."""
    rules = RuntimeRules(of_teams={"guarded": "strong"})
    assert runtimes(rules=rules).choose(team, named, of_template).name == chosen


@pytest.mark.parametrize(
    ("team", "named", "of_template", "fault", "cause"),
    [
        ("any", "other", None, InvalidRequestError, "'other' is not available"),
        ("any", "middle", None, PermissionDeniedError, "has forbidden the runtime 'middle'"),
        ("any", None, "middle", PermissionDeniedError, "has forbidden the runtime 'middle'"),
        ("any", "strong", None, InvalidRequestError, "'strong' does not work on this server"),
        ("any", None, "strong", InvalidRequestError, "does not work on this server"),
        ("guarded", None, None, InvalidRequestError, "does not work on this server"),
        ("guarded", "weak", None, InvalidRequestError, "does not work on this server"),
        ("tied", "weak", None, None, ""),
        ("tied", "middle", None, PermissionDeniedError, "has forbidden"),
    ],
)
def test_no_other_runtime_takes_the_place(
    team: str, named: str | None, of_template: str | None, fault: type[CloisterError] | None, cause: str
) -> None:
    """One that is forbidden or does not work is an error, never a weaker one; so is one that the operator has not chosen for the team."""
    rules = RuntimeRules(forbidden=frozenset({"middle"}), of_teams={"guarded": "strong", "tied": "weak"})
    made = runtimes(rules=rules, unavailable={"strong": "it is not installed"})
    if fault is None:
        assert made.choose(team, named, of_template).name == named
        return
    with pytest.raises(fault, match=cause):
        made.choose(team, named, of_template)


def test_a_team_gets_no_other_runtime_by_name() -> None:
    """The error says that it is the operator's choice."""
    made = runtimes(rules=RuntimeRules(of_teams={"guarded": "strong"}))
    with pytest.raises(PermissionDeniedError, match="has chosen the runtime 'strong' for your team"):
        made.choose("guarded", "weak")


def test_auto_is_the_strongest_that_may_be_used_and_works() -> None:
    """Never one that is forbidden or does not work; without any there is no server."""
    assert runtimes("auto").default.name == "strong"
    assert runtimes("auto", unavailable={"strong": "x"}).default.name == "middle"
    assert runtimes("auto", RuntimeRules(forbidden=frozenset({"strong", "middle"}))).default.name == "weak"
    with pytest.raises(UnavailableError, match="no runtime"):
        runtimes("auto", RuntimeRules(forbidden=frozenset({"strong", "middle", "weak"})))


def test_a_default_that_does_not_work_is_refused() -> None:
    """A server that begins nevertheless would run sandboxes in a weaker one."""
    with pytest.raises(UnavailableError, match="'strong' does not work on this node: no runsc"):
        runtimes("strong", unavailable={"strong": "no runsc"})
    with pytest.raises(PermissionDeniedError, match="has forbidden the runtime 'strong'"):
        runtimes("strong", RuntimeRules(forbidden=frozenset({"strong"})))


def test_sandboxes_that_exist_keep_their_runtime() -> None:
    """They are found by its name, whether new ones may use it or not."""
    made = runtimes(rules=RuntimeRules(forbidden=frozenset({"middle"})), unavailable={"strong": "x"})
    assert [made.find(name).name for name in ("middle", "strong")] == ["middle", "strong"]


def test_builds_need_a_runtime_that_runs_steps() -> None:
    """Whatever the default is; while it is forbidden, clients build nothing."""
    assert runtimes("strong").builder.name == "weak"
    assert runtimes("strong").may_build
    assert not runtimes("strong", RuntimeRules(forbidden=frozenset({"weak"}))).may_build
    with pytest.raises(InvalidRequestError, match="can run the steps"):
        _ = Runtimes([runtime("strong")], "strong").builder
