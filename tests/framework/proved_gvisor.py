"""The steps that confine the processes of a sandbox on gVisor, and root inside it, and the attacks on each."""

from __future__ import annotations

from framework.proved_step import Step

__all__ = ["GVISOR_STEPS"]

BUNDLE = "src/cloister/runtime/gvisor/bundle.py"
LAUNCH = "src/cloister/runtime/gvisor/launch.py"

GVISOR_STEPS = (
    Step(
        "gVisor's kernel opens no file itself",
        BUNDLE,
        '"--directfs=false",',
        '"--directfs=true",',
        "kernel_of_a_sandbox_cannot",
    ),
    Step(
        "root on gVisor mounts nothing",
        BUNDLE,
        '"CAP_CHOWN", "CAP_DAC_OVERRIDE",',
        '"CAP_SYS_ADMIN", "CAP_CHOWN", "CAP_DAC_OVERRIDE",',
        "gvisor and by_a_system_call and call_mount",
    ),
    Step(
        "root on gVisor has no power over its network",
        BUNDLE,
        '"CAP_CHOWN", "CAP_DAC_OVERRIDE",',
        '"CAP_NET_ADMIN", "CAP_CHOWN", "CAP_DAC_OVERRIDE",',
        "gvisor and by_sockets and add_an_address",
    ),
    Step(
        "root on gVisor has no raw sockets",
        BUNDLE,
        '"CAP_CHOWN", "CAP_DAC_OVERRIDE",',
        '"CAP_NET_RAW", "CAP_CHOWN", "CAP_DAC_OVERRIDE",',
        "gvisor and by_sockets and raw_socket",
        also=((BUNDLE, '"--allow-suid",', '"--allow-suid", "--net-raw",'),),
    ),
    Step(
        "root on gVisor has twelve capabilities",
        BUNDLE,
        '"CAP_CHOWN", "CAP_DAC_OVERRIDE",',
        '"CAP_SYS_PTRACE", "CAP_CHOWN", "CAP_DAC_OVERRIDE",',
        "gvisor and by_identity and CAP_SYS_PTRACE",
    ),
    Step(
        "users on gVisor have a bound of processes",
        BUNDLE,
        '{"type": "RLIMIT_NPROC", "soft": processes, "hard": processes},',
        "",
        "gvisor and more_processes",
    ),
    Step(
        "directories of the host on gVisor tell of no disk",
        LAUNCH,
        "(f'{place}/empty', *lower)",
        "(*lower, f'{place}/empty')",
        "gvisor and disk_by_statfs",
    ),
    Step(
        "sandboxes on gVisor begin in their control group",
        LAUNCH,
        '        os.write(fd, b"0")\n',
        "",
        "its_processes_are_all_there or leave_its_control_group",
    ),
    Step(
        "the host ends a sandbox on gVisor before its own programs",
        LAUNCH,
        'write_text("500")',
        'write_text("0")',
        "when_memory_is_short",
    ),
)
