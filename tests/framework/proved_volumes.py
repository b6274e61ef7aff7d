"""The steps that keep volumes apart and their content in, and the attacks that notice when one is gone."""

from __future__ import annotations

from framework.proved_step import NATIVE, Step

__all__ = ["VOLUME_STEPS"]

_VOLUMES, _TOKENS = "src/cloister/control/volumes.py", "src/cloister/store/volume_tokens.py"
_TREE, _DISKS = "src/cloister/agent/volume/tree.py", "src/cloister/disks/volumes.py"

VOLUME_STEPS = (
    Step("volumes: a team's own, by id", _VOLUMES, "or found.team_id != team_id", "", "cannot_reach_another_teams_volume"),
    Step(
        "volumes: a team's own, by name",
        "src/cloister/store/sql_volumes.py",
        "WHERE team_id = ? {order}",
        "WHERE ? <> '' {order}",
        "cannot_reach_another_teams_volume",
    ),
    Step("volumes: a token is for one", _TOKENS, "subject=volume_id", "subject=None", "by_another_ones_token"),
    Step("volumes: paths stay below the root", _TREE, "_IN_ROOT | _NO_XDEV | _NO_MAGICLINKS", "0", "cannot_lead_out_of_it"),
    Step(
        "volumes: a pipe is no file",
        _TREE,
        "if not stat.S_ISREG(os.fstat(fd).st_mode):",
        "if False:",
        "cannot_stop_the_content_api",
        also=((_TREE, "os.O_RDONLY | os.O_CLOEXEC)\n        finally", "os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)\n        finally"),),
    ),
    Step("volumes: no set-user-id", _DISKS, "MountFlag.NO_SUID | MountFlag.NO_DEV", "MountFlag.NO_DEV", "cannot_misuse_a_volume"),
    Step("volumes: read-only", _DISKS, "(MountFlag.READ_ONLY if is_read_only else MountFlag.NONE)", "MountFlag.NONE", "misuse_a_volume"),
    Step(
        "volumes: a team's share of the processes",
        "src/cloister/node/volume_contents.py",
        ">= _MOST_OF_TEAM:",
        ">= _MOST:",
        "cannot_keep_anothers_volumes_from_being_served",
    ),
    Step(
        "volumes: a stop does not wait for a process",
        "src/cloister/node/volumes.py",
        "except UnavailableError as error:",
        "except NotFoundError as error:",
        "cannot_keep_the_node_from_its_end",
    ),
    Step(
        "volumes: no link on the way",
        f"{NATIVE}/volumes.c",
        "O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);\n    check(below < 0",
        "O_PATH | O_DIRECTORY | O_CLOEXEC);\n    check(below < 0",
        "cannot_have_a_volume_over_a_link",
    ),
    Step(
        "volumes: what mounts them has no other power",
        f"{NATIVE}/volumes.c",
        "    keep_power(needed, sizeof needed / sizeof *needed);\n",
        "    (void)needed;\n",
        "process_that_mounts_volumes_has_little_power",
    ),
    Step(
        "volumes: what mounts them holds nothing of the zone",
        f"{NATIVE}/volumes.c",
        "close_range(0, (unsigned)control - 1, 0)",
        "0",
        "process_that_mounts_volumes_has_little_power",
    ),
    Step(
        "volumes: not over what programs have seen",
        f"{NATIVE}/volumes.c",
        "check(!fits, ",
        "check(0 && !fits, ",
        "programs_of_a_template_cannot_stand_below_a_volume",
    ),
    Step(
        "volumes on gVisor: no link on the way",
        "src/cloister/runtime/gvisor/launch.py",
        "below = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)",
        "below = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)",
        "on_gvisor_cannot_have_a_volume_over_a_link",
    ),
    Step(
        "volumes on gVisor: none in another one",
        "src/cloister/runtime/gvisor/runtime.py",
        "if any(path == other or path.startswith",
        "if any(path == other and path.startswith",
        "on_gvisor_cannot_have_a_volume_over_a_link",
    ),
    Step(
        "volumes on gVisor: no set-user-id",
        "src/cloister/runtime/gvisor/bundle.py",
        '"options": ["rbind", "nosuid", "nodev", *',
        '"options": ["rbind", "nodev", *',
        "on_gvisor_cannot_misuse_a_volume",
    ),
    Step(
        "volumes on gVisor: memory is not saved",
        "src/cloister/runtime/gvisor/sandbox.py",
        "if self._spec.volumes:",
        "if False:",
        "memory_of_a_sandbox_with_volumes_is_not_saved",
    ),
)
