"""Clients that leave whenever they like: nothing of their sandboxes stays behind (I8)."""

from __future__ import annotations

import json
import random

import pytest
from bench import churn
from e2b_code_interpreter import Sandbox

from cloister.config.settings import Settings
from framework.server import running_server
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.slow]


@pytest.mark.timeout(420)
def test_creations_and_kills_with_clients_that_leave_lose_nothing(stock_templates: None) -> None:
    """After 150 lives, most of whose clients left in the middle, the server holds what it held before, and after its stop nothing."""
    plan = churn.Plan(cycles=150, at_once=4, seed=random.randrange(1 << 31), limit_s=120)
    with running_server() as server:
        outcome = churn.churn(server, plan, print)
    print(f"seed {plan.seed}: {outcome}")
    assert not outcome.findings
    assert outcome.done.total() >= 20
    assert outcome.left > 0


def test_a_sandbox_that_stays_is_found(stock_templates: None) -> None:
    """The verdict names what one forgotten sandbox holds, and is content again once it is gone."""
    with running_server() as server:
        Sandbox.create(timeout=60, **server.sdk).kill()
        eventually(lambda: json.loads(server.cli("census", "--json").stdout)["made_ahead"] == Settings().pool_size, 60)
        before = churn.settle(server, 20)
        forgotten = Sandbox.create(timeout=300, **server.sdk)
        _, found = churn.judge(server, before, cycles=1, settle_s=5)
        names = {text.split(":")[0] for text in found}
        assert {"control_groups", "loop_devices", "network_namespaces", "processes"} <= names, found
        assert "1 sandboxes are alive that nobody holds" in churn.left_alive(server)
        forgotten.kill()
        _, found = churn.judge(server, before, cycles=1, settle_s=30)
        assert not found
