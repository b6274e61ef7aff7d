"""What every test group sees: shared fixtures, and ``--require``, by which a skip of what this machine can do is a failure."""

from __future__ import annotations

import signal
from collections.abc import Generator
from typing import Any

import pytest

pytest_plugins = [
    "framework.driver_root",
    "framework.agent_process",
    "framework.fake_birth",
    "framework.forked_driver",
    "framework.fake_interpreter",
    "framework.fixtures",
]

IMPOSSIBLE = "this machine cannot"
"""A skip whose reason begins so is let pass by ``--require``: nothing that could be installed or started would help."""


def pytest_configure() -> None:
    """Take interrupts, also in a run that a script put into the background, which has them ignored."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--require``."""
    parser.addoption("--require", action="store_true", help=f"make every skip a failure, unless its reason begins with {IMPOSSIBLE!r}")


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
