"""The hardening steps of the commands that talk to sandboxes, and the attacks that notice when one is gone."""

from __future__ import annotations

from framework.proved_step import Step

__all__ = ["COMMAND_LINE_STEPS"]

_COPYING = "src/cloister/client/copying.py"
COMMAND_LINE_STEPS = (
    Step("command line: archives are filtered", _COPYING, 'filter="data"', 'filter="fully_trusted"', "cannot_write_outside_of_a_copy"),
    Step("command line: links of an archive are refused", _COPYING, "links.check(member)", "pass", "cannot_mislead_a_copy_by_links"),
    Step(
        "command line: a file is a file",
        _COPYING,
        "if count > 1 or not member.isfile():",
        "if False:",
        "cannot_replace_a_file_by_a_link",
    ),
    Step(
        "command line: words of a sandbox are printable",
        _COPYING,
        "printable(line) for line",
        "line for line",
        "cannot_steer_the_terminal",
    ),
)
