"""The steps that keep the host and neighbours out of /proc, /dev and the table of mounts, each mask of /proc alone."""

from __future__ import annotations

from framework.inventory import masked_names
from framework.proved_step import NATIVE, Step

__all__ = ["PROC_STEPS"]

_PROCFS, _SLOT, _ROOTFS = f"{NATIVE}/procfs.c", f"{NATIVE}/slot.c", "src/cloister/runtime/namespace/rootfs.py"

_SHARED_MEMORY = """_kept: list[int] = []


def memory_mount(shm_bytes: int, owner: int, stack: ExitStack) -> tuple[str, int]:
    if not _kept:
        _kept.append(os.dup(_memory_mount(shm_bytes, owner, stack)[1]))
    return "memory", close_with(stack, clone_tree(f"/proc/self/fd/{_kept[0]}", MountFlag.NO_SUID))


def _memory_mount("""

PROC_STEPS = (
    *(
        Step(
            f"mask of /proc/{name}",
            _PROCFS,
            "shown[] = {",
            f'shown[] = {{"{name}", ',
            "cold and root and in_the_inventory",
            needs=f"/proc/{name}",
        )
        for name in masked_names()
    ),
    Step(
        "masks of files of /proc that are not known",
        _PROCFS,
        '    else bind_mount("/new/dev/null", path, MS_RDONLY | MS_NOSUID | MS_NOEXEC);',
        "",
        "cold and in_the_inventory",
    ),
    Step(
        "masks of directories of /proc that are not known",
        _PROCFS,
        'else if (entry->d_type == DT_DIR) bind_mount("/memory/empty", path, SEALED);',
        "else if (entry->d_type == DT_DIR) return;",
        "cold and in_the_inventory",
    ),
    Step(
        "fixed files of /proc",
        _PROCFS,
        "if (!access(fixed, F_OK)) bind_mount(fixed, path, SEALED);",
        "if (!access(fixed, F_OK)) return;",
        "cold and in_the_inventory",
    ),
    Step("own values in /proc", _PROCFS, "    write_own_files();", "    (void)write_own_files;", "own_limits"),
    Step(
        "read-only settings of a sandbox's namespaces",
        _PROCFS,
        "        check(mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | SEALED, NULL), path);",
        "",
        "cold and write_a_setting",
    ),
    Step(
        "own overlay of each tree: no path of the host",
        _SLOT,
        '    check(mount("overlay", path, "overlay", flags, options), path);',
        "    bind_mount(layer, path, flags);",
        "cold and in_the_inventory",
    ),
    Step(
        "own overlay of each tree: no watch",
        _SLOT,
        '    check(mount("overlay", path, "overlay", flags, options), path);',
        "    bind_mount(layer, path, flags);",
        "cold and neighbour_opens",
    ),
    Step(
        "own overlay of each tree: no lock",
        _SLOT,
        '    check(mount("overlay", path, "overlay", flags, options), path);',
        "    bind_mount(layer, path, flags);",
        "cold and by_a_lock",
    ),
    Step(
        "nothing of the host's disk in statfs",
        _SLOT,
        '"userxattr,lowerdir=/empty:%s", layer',
        '"userxattr,lowerdir=%s:/empty", layer',
        "cold and hosts_disk_by_statfs",
    ),
    Step(
        "own devices: no watch",
        _ROOTFS,
        "def memory_mount(",
        _SHARED_MEMORY,
        "cold and neighbour_opens",
        also=((f"{NATIVE}/files.c", "O_NOFOLLOW, 0644", "O_NOFOLLOW, 0666"), (_SLOT, "umask(022);", "umask(0);")),
    ),
)
