"""Shared fixtures of all test groups, and options: ``--require`` makes a skip of a possible test a failure; ``--shard``."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from framework.attack_table import AttackTable
from framework.garbage import unpin_garbage
from framework.shards import SHARDS, keep_shard

pytest_plugins = [
    "framework.driver_root",
    "framework.agent_process",
    "framework.fake_birth",
    "framework.forked_driver",
    "framework.fake_interpreter",
    "framework.fixtures",
    "framework.gvisor",
    "framework.node_driver",
    "framework.tiers",
]

IMPOSSIBLE = "this machine cannot"
"""A skip whose reason begins so is let pass by ``--require``: nothing that could be installed or started would help."""


def pytest_configure(config: pytest.Config) -> None:
    """Take interrupts, also in a run that a script put into the background, which has them ignored. Clean up after killed runs."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    if os.geteuid() == 0:
        unpin_garbage()
    directory = config.getoption("--write-attack-table")
    if directory is not None:
        config.pluginmanager.register(AttackTable(directory))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--require``, ``--shard`` and ``--write-attack-table``."""
    parser.addoption("--require", action="store_true", help=f"make every skip a failure, unless its reason begins with {IMPOSSIBLE!r}")
    parser.addoption("--shard", choices=SHARDS, help="run this part of the suite only (framework/shards.py)")
    parser.addoption("--write-attack-table", type=Path, metavar="DIRECTORY", help="write docs/attacks (framework/attack_table.py)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the chosen shard, without what is marked ``on_demand`` unless marks are chosen (``-m``)."""
    if not config.getoption("-m"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("on_demand") is not None])
        items[:] = [item for item in items if item.get_closest_marker("on_demand") is None]
    shard = config.getoption("--shard")
    if shard is not None:
        keep_shard(config, items, shard)


def _refuse_skip(config: pytest.Config, report: pytest.TestReport | pytest.CollectReport) -> None:
    if not config.getoption("--require") or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not reason.startswith(IMPOSSIBLE):
        report.outcome = "failed"
        report.longrepr = f"--require: skipped although this machine can do it: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Turn a skipped test into a failed one under ``--require``."""
    report = yield
    _refuse_skip(item.config, report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """The same for a module that skips itself."""
    report = yield
    _refuse_skip(collector.config, report)
    return report
