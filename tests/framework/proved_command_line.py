"""The hardening steps of the commands that talk to sandboxes, and the attacks that notice when one is gone."""

from __future__ import annotations

from framework.proved_step import Step

__all__ = ["COMMAND_LINE_STEPS"]

_COPYING = "src/cloister/client/copying.py"
_UNPACKING = "src/cloister/client/unpacking.py"
COMMAND_LINE_STEPS = (
    Step("command line: rights of an archive's files", _UNPACKING, "member.mode & 0o755", "member.mode & 0o7777", "cannot_write_outside"),
    Step("command line: links of an archive are refused", _UNPACKING, "links.check(member, name)", "pass", "cannot_write_outside"),
    Step(
        "command line: files through links of this machine",
        _UNPACKING,
        "os.O_NOFOLLOW | os.O_NONBLOCK",
        "os.O_NONBLOCK",
        "cannot_use_links_of_the_target",
    ),
    Step(
        "command line: directories through links of this machine",
        _UNPACKING,
        "os.O_DIRECTORY | os.O_NOFOLLOW",
        "os.O_DIRECTORY",
        "cannot_use_links_of_the_target",
    ),
    Step(
        "command line: a file is a file",
        _UNPACKING,
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
    Step(
        "backups: rights of the api process",
        "src/cloister/backup/making.py",
        "copy, use_rights_of_owner)",
        "copy)",
        "cannot_have_a_backup_open_files_of_root",
    ),
    Step("command line: pipes", "src/cloister/config/client_env.py", " | os.O_NONBLOCK)", ")", "cannot_let_a_command_wait"),
    Step("command line: redirects", "src/cloister/client/api.py", "allow_redirects=False", "allow_redirects=True", "send_a_key_elsewhere"),
)
