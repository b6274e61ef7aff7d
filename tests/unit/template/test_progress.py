"""What a build prints."""

from __future__ import annotations

import io

from cloister.template.progress import PlainProgress, TerminalProgress, make_progress
from cloister.template.stock import StockStep

STEP = StockStep(name="s", kind="run", title="tools")


def test_plain_lines_say_step_time_and_size() -> None:
    """Each step ends in one line, with its place in the build, its time and its size, or that it was cached."""
    stream = io.StringIO()
    progress = make_progress(stream)
    progress.step_started("base", 1, 2, STEP)
    progress.step_done(12.3, 5 << 20, cached=False)
    progress.step_started("base", 2, 2, STEP)
    progress.step_done(0.0, None, cached=True)
    assert stream.getvalue() == "base [1/2] tools: done (12 s, 5 MiB)\nbase [2/2] tools: done (cached)\n"


def test_a_running_step_shows_percent_and_no_control_characters() -> None:
    """Status lines become a percentage, and escape sequences of the build's programs never reach the terminal."""
    stream = io.StringIO()
    progress = PlainProgress(stream, heartbeat_s=-1)
    progress.step_started("base", 1, 1, STEP)
    progress.step_output("pmstatus:jq:41.6:Unpacking jq")
    progress.step_output("\x1b]0;evil\x07text")
    assert " 42% Unpacking jq" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_the_terminal_line_is_replaced_by_the_final_one() -> None:
    """The moving line is wiped before the line that stays is written, also when the step fails."""
    stream = io.StringIO()
    progress = TerminalProgress(stream)
    progress.step_started("base", 1, 1, STEP)
    progress.step_failed()
    assert stream.getvalue().split("\r\x1b[K")[-1].startswith("base [1/1] tools: failed after 0:0")
