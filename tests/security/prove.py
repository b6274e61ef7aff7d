"""Proves that the attack tests can fail: takes one hardening step away at a time and runs the attacks.

Run as root: ``.venv/bin/python tests/security/prove.py``. Prints a line for each step; exit code 1 when a step can be removed unnoticed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
NATIVE = "src/cloister/runtime/namespace/native"
DRIVERS = "src/cloister/agent/drivers"


@dataclass(frozen=True)
class Step:
    """One step: what removes it (in ``file``, ``old`` becomes ``new``) and the attacks, a pytest -k expression, of which one must fail.

    ``also``: further edits, where a second layer would hold the attack off by itself.
    """

    name: str
    file: str
    old: str
    new: str
    attacks: str
    also: tuple[tuple[str, str, str], ...] = ()


STEPS = (
    Step(
        "seccomp filter",
        f"{NATIVE}/slot.c",
        'check(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), "install the seccomp filter");',
        "(void)program;",
        "cold and (cannot_call or power_over)",
    ),
    Step(
        "capability bounding set",
        f"{NATIVE}/slot.c",
        'check(prctl(PR_CAPBSET_DROP, cap), "drop a capability");',
        "{}",
        "cold and power_over",
    ),
    Step(
        "masked files of /proc",
        f"{NATIVE}/slot.c",
        'check(mount("/new/dev/null", path, NULL, MS_BIND, NULL), path);',
        "{}",
        "kallsyms or cmdline",
    ),
    Step(
        "masked directories of /proc",
        f"{NATIVE}/slot.c",
        'check(mount("none", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=555,size=0"), path);',
        "{}",
        "acpi",
    ),
    Step("read-only /proc/sys", f"{NATIVE}/slot.c", "if (!access(path, F_OK)) bind_readonly(path, path);", "{}", "shm_rmid or max_user"),
    Step("own values in /proc", f"{NATIVE}/slot.c", "    replace_parts_of_proc();", "    (void)replace_parts_of_proc;", "own_limits"),
    Step("own clock", f"{NATIVE}/slot.c", "    start_own_clock();", "    (void)start_own_clock;", "own_limits"),
    Step(
        "no nested user namespaces",
        f"{NATIVE}/slot.c",
        "    forbid_nested_user_namespaces();",
        "    (void)forbid_nested_user_namespaces;",
        "max_user",
    ),
    Step(
        "own control group namespace",
        f"{NATIVE}/slot.c",
        'check(unshare(CLONE_NEWCGROUP), "make cgroup namespace");',
        "{}",
        "cold and power_over",
    ),
    Step("inotify cap", f"{NATIVE}/slot.c", "    cap_inotify();", "    (void)cap_inotify;", "inotify"),
    Step("no core dumps", f"{NATIVE}/slot.c", 'check(setrlimit(RLIMIT_CORE, &core), "forbid core dumps");', "(void)core;", "core_dumps"),
    Step("closed descriptors", f"{NATIVE}/slot.c", "        if (!wanted) close(fd);\n", "        (void)wanted;\n", "no_descriptor"),
    Step(
        "capabilities of pid 1",
        f"{NATIVE}/slot.c",
        'check(syscall(SYS_capset, &header, data), "give up capabilities");',
        "(void)header, (void)data;",
        "cold and power_over",
    ),
    Step(
        "own control group of pid 1",
        f"{NATIVE}/slot.c",
        'check(write(fds[index], "0", 1) != 1, "join the control group");',
        "{}",
        "cold and outside_its",
    ),
    Step("pid 1 out of sight", f"{NATIVE}/init.c", "    prctl(PR_SET_DUMPABLE, 0);", "    prctl(PR_SET_DUMPABLE, 1);", "proc/1"),
    Step(
        "memory limit",
        "src/cloister/linux/cgroup.py",
        "mem_bytes = str(limits.mem_mib << 20)",
        "mem_bytes = str(limits.mem_mib << 21)",
        "limits_of_the_kernel",
    ),
    Step(
        "process limit",
        "src/cloister/linux/cgroup.py",
        '"pids.max").write_text(str(limits.pids))',
        '"pids.max").read_text()',
        "process_limit",
    ),
    Step(
        "disk limit",
        "src/cloister/linux/ext4.py",
        "= _run_mkfs(size_mib, inodes)",
        "= _run_mkfs(size_mib * 16, inodes)",
        "own_limits",
    ),
    Step(
        "bound on what is noted of refusals",
        "src/cloister/node/refusals.py",
        "len(self._targets) < LISTED",
        "True",
        "fill_its_log",
        also=(("src/cloister/network/refusals.py", "1/second burst {_BURST} packets", "99999/second burst 99999 packets"),),
    ),
    Step("inode limit", "src/cloister/linux/ext4.py", "= _run_mkfs(size_mib, inodes)", "= _run_mkfs(size_mib, inodes * 4)", "inode_fill"),
    Step(
        "access token",
        "src/cloister/proxy/app.py",
        "return token is None or hmac",
        "return True or hmac",
        "token",
        also=(("src/cloister/agent/auth.py", "return hmac.compare_digest", "return True or hmac.compare_digest"),),
    ),
    Step(
        "rights of the user who is named",
        "src/cloister/agent/filesystem/users.py",
        "account if named else Unrestricted",
        "Unrestricted",
        "named_user",
    ),
    Step(
        "power over files taken away again",
        "src/cloister/agent/filesystem/users.py",
        "_libc.syscall(_SETFSUID, 0)",
        "_libc.syscall(_SETFSUID, _ASK)",
        "named_user",
    ),
    Step(
        "closed directory for what is moved",
        "src/cloister/agent/filesystem/users.py",
        "    if not isinstance(user, Unrestricted):",
        "    if True:",
        "under_a_move",
    ),
    Step(
        "seccomp filter of forked processes",
        f"{NATIVE}/join.c",
        'check(call(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, (long)&program, 0, 0), "install the seccomp filter");',
        "(void)program;",
        "forked and cannot_call and setns",
    ),
    Step(
        "capability bounding set of forked processes",
        f"{NATIVE}/join.c",
        'check(call(SYS_prctl, PR_CAPBSET_DROP, cap, 0, 0, 0), "drop a capability");',
        "{}",
        "forked and power_over",
    ),
    Step(
        "capabilities of forked processes",
        f"{NATIVE}/join.c",
        'check(call(SYS_capset, (long)&header, (long)data, 0, 0, 0), "give up capabilities");',
        "(void)header, (void)data;",
        "forked and power_over",
    ),
    Step(
        "closed descriptors of forked processes",
        f"{NATIVE}/join.c",
        'check(call(SYS_close_range, 4, ~0U, 0, 0, 0), "close descriptors");',
        "",
        "no_descriptor_of_the_zygote",
    ),
    Step(
        "control group of forked processes",
        f"{NATIVE}/join.c",
        'check(call(SYS_write, join->fds.group_files[i], (long)"0", 1, 0, 0), "join the control group");',
        "{}",
        "forked and outside_its",
    ),
    Step(
        "open files of forked processes",
        f"{NATIVE}/join.c",
        'check(call(SYS_prlimit64, 0, RLIMIT_NOFILE, (long)&files, 0, 0), "limit open files");',
        "{}",
        "limits_of_their_sandbox",
    ),
    Step(
        "processors of forked processes",
        f"{NATIVE}/join.c",
        'check(call(SYS_sched_setaffinity, 0, sizeof join->request.cpus, (long)join->request.cpus, 0, 0), "choose processors");',
        "{}",
        "limits_of_their_sandbox",
    ),
    Step("power of zygotes", f"{NATIVE}/slot.c", "    give_up_power(CAP_SYS_ADMIN);", "", "zygote_is_confined"),
    Step(
        "read-only root of zygotes",
        f"{NATIVE}/slot.c",
        '"userxattr,lowerdir=/upper:%s", layers',
        '"userxattr,lowerdir=%s,upperdir=/upper/u,workdir=/upper/w", layers',
        "zygote_is_confined",
        also=(
            (f"{NATIVE}/slot.c", '{"/upper/proc", ', '{"/upper/u", "/upper/w", "/upper/proc", '),
            (f"{NATIVE}/slot.c", '"overlay", MS_RDONLY | MS_NODEV | MS_NOSUID, options', '"overlay", MS_NODEV | MS_NOSUID, options'),
        ),
    ),
    Step(
        "network of each zygote",
        f"{NATIVE}/slotmaker.c",
        "CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC",
        "CLONE_NEWNS | CLONE_NEWIPC",
        "zygote_is_confined",
    ),
    Step(
        "own boot id",
        "src/cloister/runtime/namespace/procfiles.py",
        '"sys/kernel/random/boot_id": f"{uuid.uuid4()}\\n",',
        "",
        "draw_alike_in_python",
    ),
    Step("own host name", "src/cloister/node/catalog.py", "hostname=request.sandbox_id,", "", "draw_alike_in_python"),
    Step(
        "own machine id",
        "src/cloister/runtime/namespace/procfiles.py",
        'f"{uuid.uuid4().hex}\\n"',
        'f"{uuid.UUID(int=1).hex}\\n"',
        "draw_alike_in_python",
    ),
    Step(
        "random states of forked kernels",
        f"{DRIVERS}/python_zygote.py",
        "lambda: fresh.renew(sources, stash.get)",
        "lambda: None",
        "draw_alike_in_python",
    ),
    Step("zygotes without threads", f"{DRIVERS}/zygote_memory.py", "if tasks != 1 else", "if not tasks else", "cannot_become_ready"),
    Step("zygotes without shared memory", f"{DRIVERS}/zygote_memory.py", 'in ("rw-s", "rwxs", "-w-s")', "in ()", "cannot_become_ready"),
    Step(
        "zygotes without foreign descriptors",
        f"{DRIVERS}/zygote_memory.py",
        "if int(name) > _HIGHEST_FD:",
        "if not name:",
        "cannot_become_ready",
    ),
    Step(
        "an archive's path has two plain names",
        "src/cloister/node/requests.py",
        "if len(components) != 2 or not all(_COMPONENT.match(one) for one in components):",
        "if not components:",
        "cannot_name_a_directory_of_the_host",
    ),
    Step(
        "a build id is a UUID",
        "src/cloister/node/requests.py",
        "if not isinstance(value, str) or not is_build_id(value):",
        "if not isinstance(value, str):",
        "cannot_write_elsewhere_by_a_build_id",
    ),
    Step(
        "ceiling of what an api process may ask for",
        "src/cloister/node/supervisor.py",
        "self.ceiling.check(request.limits)",
        "pass",
        "cannot_ask_for_more_than_the_host_has",
    ),
    Step(
        "plain text in a build's log",
        "src/cloister/node/build_log.py",
        '_CONTROL.sub("", _last_overwritten(line))',
        "_last_overwritten(line)",
        "cannot_steer_the_terminal",
        (("src/cloister/node/build_log.py", '_ESCAPE.sub("", message.replace("\\r\\n", "\\n"))', "message"),),
    ),
    Step(
        "bounds of a build's log",
        "src/cloister/node/build_log.py",
        "if fits < len(rows):",
        "fits = len(rows)\n            if not rows:",
        "cannot_fill_the_disk_by_its_log",
        (("src/cloister/node/build_log.py", "self._append(rows[:fits])", "self._append(rows)"),),
    ),
    Step(
        "credentials of an ended build are removed",
        "src/cloister/node/builds.py",
        "            self._records.forget_request(build.build_id)\n            self._save",
        "            self._save",
        "cannot_find_credentials_of_a_build",
    ),
    Step(
        "files of the host left out of layers",
        "src/cloister/template/copier.py",
        '"\\n".join(self._of_the_host(sandbox))',
        '""',
        "cannot_keep_files_of_the_host",
    ),
    Step(
        "read-only disk for the copier",
        "src/cloister/runtime/namespace/rootfs.py",
        "    sealed = MountFlag.READ_ONLY | MountFlag.NO_SUID | MountFlag.NO_DEV | MountFlag.NO_EXEC\n    try:",
        "    sealed = MountFlag.NO_SUID | MountFlag.NO_DEV | MountFlag.NO_EXEC\n    try:",
        "copier_cannot",
    ),
    Step(
        "id-mapped disk for the copier",
        "src/cloister/runtime/namespace/rootfs.py",
        "            map_mount(fd, userns_fd)\n        except",
        "            _ = userns_fd\n        except",
        "copier_cannot",
    ),
    Step(
        "layers without programs for the copier",
        "src/cloister/template/copier.py",
        "sealed = MountFlag.NO_SUID | MountFlag.NO_DEV | MountFlag.NO_EXEC",
        "sealed = MountFlag.NO_SUID | MountFlag.NO_DEV",
        "copier_cannot",
    ),
    Step(
        "read-only context of a build",
        "src/cloister/runtime/namespace/rootfs.py",
        "    sealed = MountFlag.READ_ONLY | MountFlag.NO_SUID | MountFlag.NO_DEV | MountFlag.NO_EXEC\n    return",
        "    sealed = MountFlag.NO_SUID | MountFlag.NO_DEV | MountFlag.NO_EXEC\n    return",
        "change_what_it_is_shown",
    ),
    Step(
        "context without programs and devices",
        "src/cloister/runtime/namespace/rootfs.py",
        "    sealed = MountFlag.READ_ONLY | MountFlag.NO_SUID | MountFlag.NO_DEV | MountFlag.NO_EXEC\n    return",
        "    sealed = MountFlag.READ_ONLY\n    return",
        "change_what_it_is_shown",
    ),
    Step(
        "links that a copier does not follow",
        "src/cloister/agent/build/upper.py",
        "info = os.stat(name, dir_fd=source, follow_symlinks=False)",
        "info = os.stat(name, dir_fd=source)",
        "forked and (another_place or into_its_snapshot)",
    ),
    Step(
        "copies of what stands still",
        "src/cloister/runtime/namespace/sandbox.py",
        "self._runtime.cgroups.freeze(self._spec.sandbox_id, _FREEZE_TIMEOUT_S)",
        "pass",
        "while_it_is_copied",
    ),
    Step(
        "steps that are dead before their layer is made",
        "src/cloister/template/workbench.py",
        '        self._check_life("the step failed", 0.0)\n        self.sandbox.kill()',
        '        self._check_life("the step failed", 0.0)',
        "leave_a_process",
    ),
    Step(
        "zygotes of builds from the base template alone",
        "src/cloister/template/workbench.py",
        "zygote_layers=tree.interpreter,",
        "zygote_layers=None,",
        "forked and zygote_that_others_share",
    ),
    Step(
        "digests of images' layers",
        "src/cloister/agent/build/image.py",
        'if digest != params["diff_id"]:',
        "if not digest:",
        "poison_anothers_layer",
    ),
    Step(
        "private layers of a team",
        "src/cloister/template/images.py",
        'scope = team_id if credentials else ""',
        'scope = ""',
        "anothers_layers_by_their_digests",
    ),
    Step(
        "bound of entries of images",
        "src/cloister/agent/build/image.py",
        "if self.entries > self._max_entries:",
        "if False:",
        "entries_without_bound",
    ),
    Step(
        "kernelspecs read without waiting",
        "src/cloister/agent/interpreter/kernelspecs.py",
        "os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY",
        "os.O_RDONLY | os.O_NOCTTY",
        "cannot_hold_the_agent and pipe",
    ),
    Step(
        "the host's door is for the listed name",
        "src/cloister/template/registries.py",
        "return self._doors.get(name.lower())",
        "return _door(name) if _is_loopback(name) else None",
        "another_port",
    ),
    Step(
        "start marker of the first agent alone",
        f"{NATIVE}/slot.c",
        'if (!strncmp(what, "once:", 5)) plan->once[count] = 1, what += 5;',
        'if (!strncmp(what, "once:", 5)) what += 5;',
        "start_command_cannot_be_had_again",
    ),
    Step(
        "sandboxes without internet that never had it",
        "src/cloister/node/creation.py",
        "is_innocent = request.allow_internet or not template.starts_something",
        "is_innocent = True",
        "had_the_internet",
    ),
    Step(
        "programs of languages as paths alone",
        "src/cloister/node/trial.py",
        "if name in _ALIKE or _PROGRAM.match(program):",
        "if True:",
        "words_of_a_build_sandbox",
    ),
    Step(
        "known languages alone",
        "src/cloister/node/trial.py",
        "{name: said[name] for name in _LANGUAGES if name in said}",
        "said",
        "words_of_a_build_sandbox",
    ),
)


def prove(step: Step, tree: Path) -> bool:
    """Whether the attacks notice that ``step`` is gone; restores the file."""
    originals: dict[Path, str] = {}
    try:
        for name, old, new in ((step.file, step.old, step.new), *step.also):
            path = tree / name
            text = path.read_text()
            originals.setdefault(path, text)
            if old not in text:
                print(f"??  {step.name}: its text is not in {name} any more")
                return False
            path.write_text(text.replace(old, new))
        subprocess.run(["sh", str(tree / NATIVE / "build.sh"), str(tree / "src/cloister/bin")], check=True)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/security", "-k", step.attacks]
        done = subprocess.run(command, check=False, cwd=tree, env=_environ(tree), capture_output=True, text=True)
    finally:
        for path, text in originals.items():
            path.write_text(text)
    noticed = done.returncode == 1 and " failed" in done.stdout
    lines = done.stdout.strip().splitlines()
    why = next((line[1:].strip()[:100] for line in lines if line.startswith("E ")), "")
    print(f"{'ok ' if noticed else 'BAD'} {step.name}: {lines[-1]}; {why}", flush=True)
    return noticed


def _environ(tree: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{tree / 'src'}:{tree / 'tests'}"}


def main() -> int:
    """Every step, or those whose names hold a word of the command line."""
    words = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="cloister-prove-") as name:
        tree = Path(name)
        for part in ("src", "tests"):
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tree)
        chosen = [step for step in STEPS if not words or any(word in step.name for word in words)]
        unnoticed = [step.name for step in chosen if not prove(step, tree)]
    return int(bool(unnoticed))


if __name__ == "__main__":
    sys.exit(main())
