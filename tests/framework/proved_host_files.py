"""The hardening steps of the server's files on the host, and the attacks that notice when one is gone."""

from __future__ import annotations

from framework.proved_step import Step

__all__ = ["HOST_FILE_STEPS"]

_PRECHECK = "src/cloister/processes/preflight.py"
_LAYOUT = "src/cloister/node/layout.py"
HOST_FILE_STEPS = (
    Step("host files: a umask of our own", "src/cloister/cli/main.py", "    os.umask(0o022)", "    os.umask", "umask_cannot"),
    Step("host files: a umask for the api process", "src/cloister/processes/api.py", "    os.umask(0o077)\n", "", "umask_cannot_change"),
    Step(
        "host files: the node's directory is closed",
        _LAYOUT,
        'LayoutEntry("data", "node", 0o700,',
        'LayoutEntry("data", "node", 0o755,',
        "host_user_cannot_read",
    ),
    Step(
        "host files: host layers are closed",
        _LAYOUT,
        'LayoutEntry("data", "hostlayer", 0o700,',
        'LayoutEntry("data", "hostlayer", 0o755,',
        "host_user_cannot_read",
        also=(("src/cloister/template/hostlayer.py", "make_directory(target)", "make_directory(target, 0o755)"),),
    ),
    Step(
        "host files: wrong modes are corrected",
        "src/cloister/linux/files.py",
        "            os.fchmod(descriptor, mode)",
        "            pass",
        "wrongly_open_directory",
    ),
    Step(
        "host files: another user's directory is refused",
        "src/cloister/linux/files.py",
        "if found.st_uid != os.geteuid():",
        "if False:",
        "wrongly_open_directory",
    ),
    Step(
        "host files: weak code is refused",
        "src/cloister/cli/serve.py",
        "    refuse_weak_code(os.environ)\n",
        "",
        "change_what_root_runs",
        also=(("src/cloister/cli/node.py", "    refuse_weak_code(os.environ)\n", ""),),
    ),
    Step(
        "host files: writable code is weak",
        "src/cloister/node/strict_modes.py",
        "found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)",
        "found.st_mode & 0",
        "change_what_root_runs or replace_a_directory",
    ),
    Step(
        "host files: another user's code is weak",
        "src/cloister/node/strict_modes.py",
        "if found.st_uid not in (0, also_trusted):",
        "if False:",
        "change_what_root_runs or replace_a_directory",
    ),
    Step(
        "host files: access lists are seen",
        "src/cloister/node/strict_modes.py",
        " and _ACCESS_LIST not in os.listxattr(path, follow_symlinks=False)",
        "",
        "hide_in_an_access_list",
    ),
    Step(
        "host files: missing directories count as their parents",
        "src/cloister/node/strict_modes.py",
        "{existing_part(path.absolute()) for path in paths}",
        "paths",
        "make_a_missing_directory",
    ),
    Step("host files: directories that others write are refused", _PRECHECK, "    _writers,\n", "", "replace_a_directory"),
    Step("host files: closed parents are refused", _PRECHECK, "    _reach,\n", "", "closed_parent"),
    Step(
        "host files: no module from the working directory",
        "src/cloister/processes/launcher.py",
        '[sys.executable, "-P", "-m"',
        '[sys.executable, "-m"',
        "hand_root_a_module",
    ),
)
