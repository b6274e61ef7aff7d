"""The steps that keep teams within their limits and apart from each other's keys, and the attacks that notice when one is gone."""

from __future__ import annotations

from framework.proved_step import Step

__all__ = ["TEAM_STEPS"]

_KEYS, _STORE = "src/cloister/control/keys.py", "src/cloister/store/sql_teams.py"
_QUOTAS, _SANDBOXES = "src/cloister/control/quotas.py", "src/cloister/control/sandboxes.py"

TEAM_STEPS = (
    Step(
        "teams: a place is taken when it is checked",
        _SANDBOXES,
        "        reservation = self.quotas.check_creation(row, limits)\n",
        "        reservation = self.quotas.check_creation(row, limits)\n        await asyncio.sleep(0.05)\n",
        "pass_the_limit_by_creations_at_once",
    ),
    Step(
        "teams: a resume takes a place",
        "src/cloister/control/pausing.py",
        "            reservation = self._sandboxes.quotas.check_resume(row, limits)\n",
        "",
        "pass_the_limit_by_resumes",
    ),
    Step(
        "teams: each limit is checked",
        _QUOTAS,
        "for name in _REMEDIES:",
        'for name in ("sandboxes", "paused"):',
        "pass_a_limit_of_size",
    ),
    Step("teams: the rate of creations", _QUOTAS, "if rate is not None and not", "if False and not", "create_faster_than_its_rate"),
    Step("teams: defaults", _QUOTAS, "own.over(self.defaults)", "own", "defaults_of_the_server"),
    Step(
        "teams: bounds of every team", _QUOTAS, ".over(self.defaults).at_most(self.bounds)", ".over(self.defaults)", "bounds_of_every_team"
    ),
    Step(
        "teams: bounds of a limit that is set",
        "src/cloister/control/teams.py",
        "        check_bounds(changed, bounds)\n        if",
        "        if",
        "team_cannot_raise_its_limits",
    ),
    Step(
        "keys: revoked by their own team",
        _STORE,
        "AND (:team_id IS NULL OR team_id = :team_id)",
        "AND coalesce(:team_id, '') <> 'x'",
        "change_another_teams_keys",
    ),
    Step(
        "keys: renamed by their own team",
        _STORE,
        "AND team_id = ? AND revoked_at",
        "AND ? <> '' AND revoked_at",
        "change_another_teams_keys",
    ),
    Step(
        "keys: listed for their own team",
        _STORE,
        "WHERE :team_id IS NULL OR team_id = :team_id",
        "WHERE coalesce(:team_id, '') <> 'x'",
        "another_teams_keys",
    ),
    Step("keys: fields of a new one", "src/cloister/api/keys.py", "Fields(body, is_strict=True)", "Fields(body)", "key_with_more_power"),
    Step("keys: the end of their maker", _KEYS, "for at in (caller.key.expires_at, expires_at)", "for at in (expires_at,)", "outlives_it"),
    Step("keys: their end", _KEYS, "if key.expires_at is not None and key.is_expired(now):", "if False:", "outlives_it"),
    Step("keys: scopes of the operator", _KEYS, "if found[0].scope is not scope:", "if False:", "routes_of_another_scope"),
    Step(
        "metrics of the own team",
        "src/cloister/api/teams.py",
        'if request.match_info["team_id"] != team.team_id:',
        "if False:",
        "another_teams_metrics",
    ),
    Step(
        "names of teams are no ids", "src/cloister/control/teams.py", "if name.startswith(_ID_PREFIX):", "if False:", "name_that_deceives"
    ),
    Step(
        "removal: keys go",
        _STORE,
        '    "DELETE FROM api_keys WHERE team_id = :team_id",\n',
        "",
        "removed_team_cannot",
        also=((_STORE, ' AND removed_at IS NULL"\n        )\n        rows', '"\n        )\n        rows'),),
    ),
    Step(
        "removal: sandboxes are killed",
        "src/cloister/control/team_admin.py",
        "await self._sandboxes.kill_team(team.team_id)",
        "1",
        "removed_team_cannot",
    ),
    Step(
        "removal: sandboxes keep the team",
        _STORE,
        'is_allowed = not connection.execute(_LIVE, values).fetchone()["live"] or even_with_sandboxes',
        "is_allowed = True",
        "removed_team_cannot",
    ),
    Step(
        "removal: no late rows",
        "src/cloister/store/migrations/0010_teams.sql",
        "WHEN (SELECT removed_at FROM teams WHERE team_id = NEW.team_id) IS NOT NULL",
        "WHEN 0",
        "late_request_of_a_removed_team",
    ),
)
