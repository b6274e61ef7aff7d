"""The steps that keep webhooks from the host's networks and from other teams, and the attacks that notice when one is gone."""

from __future__ import annotations

from framework.proved_step import Step

__all__ = ["WEBHOOK_STEPS"]

_SENDER, _STORE = "src/cloister/processes/api_receivers.py", "src/cloister/store/sql_events.py"

WEBHOOK_STEPS = (
    Step(
        "webhooks: public addresses",
        _SENDER,
        "return egress_networks({network}, ()) == {network} and not",
        "return bool(network) and not",
        "webhook_cannot_reach_private_addresses",
    ),
    Step("webhooks: not the host's own", _SENDER, " and not _is_own(address)", "", "webhook_cannot_reach_the_host"),
    Step("webhooks: no redirects", _SENDER, "allow_redirects=False", "allow_redirects=True", "webhook_cannot_follow"),
    Step("webhooks: the checked address", _SENDER, "resolver=_Fixed(host, addresses)", "resolver=None", "cannot_change_its_address"),
    Step("webhooks: no proxy", _SENDER, "auto_decompress=False)", "auto_decompress=False, trust_env=True)", "webhook_cannot_use_a_proxy"),
    Step(
        "webhooks: usual forms of hosts",
        "src/cloister/model/webhook_url.py",
        "if clean_name(host.encode()) is None and",
        "if False and",
        "webhook_cannot_have_an_odd_url",
    ),
    Step(
        "webhooks: a team's own",
        _STORE,
        "WHERE team_id = ? AND webhook_id = ?",
        "WHERE ? <> '' AND webhook_id = ?",
        "team_cannot_use_the_webhooks",
    ),
    Step(
        "events: a team's own",
        _STORE,
        'FROM sandbox_events WHERE team_id = :team_id"',
        "FROM sandbox_events WHERE :team_id <> ''\"",
        "team_cannot_use_the_webhooks",
    ),
    Step(
        "webhooks: events of the own team",
        _STORE,
        "FROM webhooks w WHERE team_id = :team_id",
        "FROM webhooks w WHERE :team_id <> ''",
        "webhook_of_a_team_cannot_get",
    ),
    Step(
        "webhooks: a secret is bound to its row",
        "src/cloister/control/webhooks.py",
        '["cloister webhook", row.team_id, row.webhook_id, row.version]',
        '["cloister webhook"]',
        "database_alone_does_not_have_the_signing_secret",
    ),
)
