"""The runtimes of one node, by name.

Owns no runtime's work: it chooses one for a request or a record, and asks all of them in turn where the node asks for the whole.
Runs in: supervisor and builds, any thread. Needs: nothing by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from cloister.errors import CloisterError, InvalidRequestError, PermissionDeniedError, UnavailableError
from cloister.runtime.base import Runtime
from cloister.runtime.resources import NodeResources

__all__ = ["AUTO", "RuntimeKind", "RuntimeRules", "Runtimes"]

AUTO = "auto"
"""In place of a name: the strongest runtime that works on the host and may be used."""

_T = TypeVar("_T")


class RuntimeKind(Protocol):
    """An implementation of a runtime, set up and not yet opened."""

    @property
    def name(self) -> str:
        """That of its :class:`Runtime`."""
        ...

    def open(self, resources: NodeResources) -> Runtime:
        """Make the runtime of a node. It finds the helpers that outlived an earlier supervisor. Raises: IsolationError, OSError."""
        ...

    def try_out(self, run_root: Path) -> None:
        """Try whether it can create sandboxes on this host. Raises: UnavailableError, which says why not.

        The node opens it in any case: there may be sandboxes of an earlier start. A trial that takes long may keep a note in ``run_root``,
        the directory of all servers of the host, which a reboot empties.
        """
        ...

    def checks(self) -> dict[str, Callable[[], str]]:
        """For ``cloister doctor``: what this host must have, by name. A check returns what it found, or raises the cause and remedy."""
        ...

    def options(self) -> dict[str, Callable[[], str]]:
        """For ``cloister doctor``: as :meth:`checks`, for what sandboxes can run without."""
        ...

    def helper_groups(self, run_dir: Path) -> set[str]:
        """For ``cloister census``: control groups of helpers that live now, read without a supervisor. ``run_dir`` is the instance's."""
        ...


@dataclass(frozen=True, kw_only=True)
class RuntimeRules:
    """What the operator decides about runtimes. It holds for creations; sandboxes that exist keep the runtime that they have."""

    forbidden: frozenset[str] = frozenset()
    of_teams: Mapping[str, str] = field(default_factory=dict)
    """Team id to the one runtime of its sandboxes."""


class Runtimes:
    """The runtimes of one node. Immutable."""

    def __init__(
        self,
        runtimes: Sequence[Runtime],
        default: str,
        *,
        rules: RuntimeRules | None = None,
        unavailable: Mapping[str, str] | None = None,
    ) -> None:
        """``runtimes``: the weakest first. ``default``: the one of requests that name none, or :data:`AUTO`.

        ``unavailable``: the reason for each that cannot create sandboxes on this host. Raises: InvalidRequestError, when the default one
        is not there or may not be used; UnavailableError, when it does not work here.
        """
        self._runtimes = {runtime.name: runtime for runtime in runtimes}
        self._rules = rules or RuntimeRules()
        self._unavailable = unavailable or {}
        if default in self._unavailable:
            raise UnavailableError(f"the runtime {default!r} does not work on this node: {self._unavailable[default]}")
        self.default = self._usable(default)

    def find(self, name: str) -> Runtime:
        """The runtime of a sandbox that exists, or of a request that was decided. Raises: InvalidRequestError: this node has none."""
        found = self._runtimes.get(name)
        if found is None:
            raise InvalidRequestError(f"runtime {name!r} is not available on this node", hint=f"available: {', '.join(self._runtimes)}")
        return found

    def choose(self, team_id: str, named: str | None, of_template: str | None = None) -> Runtime:
        """The runtime for a new sandbox: the one ``named`` by the request, else the team's, else the template's, else the default one.

        Raises: InvalidRequestError (there is none of the name, or it does not work here), PermissionDeniedError (the operator has
        forbidden it, or decided on another one for the team).
        """
        teams = self._rules.of_teams.get(team_id)
        if named is not None:
            found = self._usable(named)
            if teams is not None and found.name != self._usable(teams).name:
                message = f"the operator of this server has chosen the runtime {teams!r} for your team"
                raise PermissionDeniedError(message, hint="name no runtime")
            return found
        wanted = teams or of_template
        return self.default if wanted is None else self._usable(wanted)

    def _usable(self, name: str) -> Runtime:
        """One that can create sandboxes here. Raises: as :meth:`choose`."""
        if name == AUTO:
            usable = [one for one in self._runtimes if one not in self._rules.forbidden and one not in self._unavailable]
            if not usable:
                raise UnavailableError("no runtime may be used on this node and works there", hint="see `cloister runtime show`")
            return self._runtimes[usable[-1]]
        found = self.find(name)
        if name in self._rules.forbidden:
            raise PermissionDeniedError(f"the operator of this server has forbidden the runtime {name!r}")
        if name in self._unavailable:
            hint = "its operator finds the reason by `cloister runtime show`"
            raise InvalidRequestError(f"the runtime {name!r} does not work on this server", hint=hint)
        return found

    @property
    def builder(self) -> Runtime:
        """The one that runs the steps of template builds: the strongest of those that can. Raises: InvalidRequestError: none can."""
        able = [one for one in self._runtimes.values() if one.capabilities.run_steps and one.name not in self._unavailable]
        if not able:
            raise InvalidRequestError("no runtime of this node can run the steps of a template build")
        return able[-1]

    @property
    def may_build(self) -> bool:
        """Whether clients may build templates: the operator has not forbidden the runtime that runs the steps."""
        return self.builder.name not in self._rules.forbidden

    def all(self) -> tuple[Runtime, ...]:
        """Every one."""
        return tuple(self._runtimes.values())

    def sweep(self, known: Callable[[], set[str]]) -> list[str]:
        """See :class:`Runtime`, for each."""
        return [line for lines in self._ask_all(lambda runtime: runtime.sweep(known)) for line in lines]

    def survey(self) -> list[str]:
        """See :class:`Runtime`, for each."""
        return [line for runtime in self._runtimes.values() for line in runtime.survey()]

    def let_go(self, idle_s: float) -> list[str]:
        """See :class:`Runtime`, for each."""
        return [key for keys in self._ask_all(lambda runtime: runtime.let_go(idle_s)) for key in keys]

    def prepared(self) -> dict[str, int]:
        """See :class:`Runtime`, for all together."""
        found = Counter[str]()
        for runtime in self._runtimes.values():
            found.update(runtime.prepared())
        return dict(found)

    def stop_preparing(self) -> None:
        """See :class:`Runtime`, for each."""
        self._ask_all(lambda runtime: runtime.stop_preparing())

    def stop(self) -> None:
        """See :class:`Runtime`, for each."""
        self._ask_all(lambda runtime: runtime.stop())

    def _ask_all(self, ask: Callable[[Runtime], _T]) -> list[_T]:
        """The answers of all runtimes. A runtime that fails does not keep the others from being asked; the first error is raised then."""
        answers: list[_T] = []
        errors: list[CloisterError | OSError] = []
        for runtime in self._runtimes.values():
            try:
                answers.append(ask(runtime))
            except (CloisterError, OSError) as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return answers
