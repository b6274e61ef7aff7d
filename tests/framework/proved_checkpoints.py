"""The hardening steps around CRIU, and the attacks that notice when one is gone."""

from __future__ import annotations

from framework.proved_step import NATIVE, Step

__all__ = ["CHECKPOINT_STEPS"]

_NATIVE = f"{NATIVE}/criu.c"
_PACKAGE = "src/cloister/runtime/namespace/checkpoint"
_DUMP, _RESTORE, _FILTER = f"{_PACKAGE}/dump.py", f"{_PACKAGE}/restore.py", f"{_PACKAGE}/filter.py"
_OF_DUMP, _OF_RESTORE = "power_of_a_dumper", "power_of_a_restore"

CHECKPOINT_STEPS = (
    Step("dumper: few capabilities", _NATIVE, "if (capabilities) keep_capabilities(mask);", "(void)keep_capabilities;", _OF_DUMP),
    Step("dumper: bounding set", _NATIVE, "if (capabilities) bound_capabilities(mask);", "(void)bound_capabilities;", _OF_DUMP),
    *(
        Step(
            f"dumper: no CAP_{name}",
            _DUMP,
            '    "CHECKPOINT_RESTORE": 40,\n',
            f'    "CHECKPOINT_RESTORE": 40,\n    "{name}": {number},\n',
            "capability_too_many",
        )
        for name, number in (("SYS_ADMIN", 21), ("NET_ADMIN", 12))
    ),
    Step("dumper: user of the sandbox", _NATIVE, " || setresuid(user, user, user)", "", _OF_DUMP),
    Step("dumper: no groups of the server", _NATIVE, 'check(setgroups(0, NULL), "leave groups");', "", _OF_DUMP),
    Step(
        "dumper: no new privileges",
        _NATIVE,
        'if (capabilities) check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "gain no privilege");',
        "",
        _OF_DUMP,
    ),
    Step(
        "dumper: seccomp filter",
        _NATIVE,
        'check(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), "install the seccomp filter");',
        "(void)program;",
        _OF_DUMP,
    ),
    Step("dumper: starts nothing", _FILTER, '_FORBIDDEN = ("execve", "execveat", ', "_FORBIDDEN = (", "neither_start_nor_map"),
    Step("dumper: maps no code", _FILTER, 'for name in ("mmap", "mprotect", "pkey_mprotect")', "for name in ()", "neither_start_nor_map"),
    Step("dumper: bounded memory", _NATIVE, 'check(setrlimit(RLIMIT_DATA, &bound), "bound the memory");', "(void)bound;", _OF_DUMP),
    Step("dumper: outlives a stop", _NATIVE, 'check(signal(*one, SIG_IGN) == SIG_ERR, "ignore a signal");', "continue;", _OF_DUMP),
    Step(
        "dumper: mount of the image",
        _DUMP,
        "clone_tree(directory, MountFlag.NO_SUID | MountFlag.NO_DEV | MountFlag.NO_EXEC)",
        "clone_tree(directory, MountFlag.NO_SUID)",
        _OF_DUMP,
    ),
    Step(
        "dumper: ends with its relay",
        _NATIVE,
        'check(prctl(PR_SET_PDEATHSIG, SIGKILL), "end with the parent"); /* the change of user has taken it back */',
        "",
        "ends_with_its_relay",
    ),
    Step(
        "dumper: its children end with it",
        _DUMP,
        "            end_strays((subject.pid, subject.pidfd), own, _LET_GO_TIMEOUT_S)\n",
        "",
        "leaves_no_process",
    ),
    Step(
        "dumper: damage is looked for",
        _DUMP,
        "if (was_killed or errors) and (damage := find_damage(before, was_killed=was_killed)):",
        'if damage := "":',
        "breaks_a_process",
    ),
    *(
        Step(f"restore: starts nothing by {name}", _NATIVE, f"int {name}(", f"int other_than_{name}(", _OF_RESTORE)
        for name in ("execvp", "execlp", "posix_spawn")  # those that CRIU or a library of its imports
    ),
    Step(
        "dumper: bounded walk of shared memory",
        f"{NATIVE}/shared.c",
        'check(depth > MOST_DEPTH, "save /dev/shm: its directories are too deep");',
        "",
        "cannot_end_the_dumper_by_deep_directories",
    ),
    Step("restore: user namespace of the sandbox", _RESTORE, '"time", "mnt", "user")', '"time", "mnt")', _OF_RESTORE),
    Step("restore: read-only image", _RESTORE, "flags = MountFlag.READ_ONLY | ", "flags = ", _OF_RESTORE),
)
