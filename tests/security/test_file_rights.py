"""The file API has root's power if a client names no user. Programs inside must not gain it by a race.

They may be root by sudo anyway where a template says so; these attacks are those of a program that may not.
"""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from e2b import SandboxException
from e2b_code_interpreter import Sandbox

from framework.inside import shell

pytestmark = [pytest.mark.root, pytest.mark.templates]

_ATTACK_S = 8.0
_SWAP_LINKS = """
import itertools, os, time
end = time.monotonic() + {seconds}
while time.monotonic() < end:
    for target in ("real", "/root/prize"):
        os.symlink(target, "next")
        os.rename("next", "cur")
"""
_TAKE_COPIES = """
import itertools, os, time
end = time.monotonic() + {seconds}
count = itertools.count()
while time.monotonic() < end:
    for name in os.listdir("."):
        if not name.startswith(".cloister-move-"):
            continue
        for path in (name + "/copy/sub", name + "/copy", name):
            for steal in (lambda: os.rename(path, "taken%d" % next(count)), lambda: os.symlink("/root/prize", path)):
                try:
                    steal()
                except OSError:
                    pass
"""


@contextlib.contextmanager
def attack(sandbox: Sandbox, directory: str, program: str) -> Iterator[float]:
    """While the block runs, a program of the ordinary user runs in a directory of its own; the time when it ends."""
    sandbox.files.write("/tmp/attack.py", program.format(seconds=_ATTACK_S), user="user")
    running = sandbox.commands.run(f"cd {directory} && python3 /tmp/attack.py", background=True, user="user", timeout=60)
    yield time.monotonic() + _ATTACK_S - 1
    running.wait()


def prize_of(sandbox: Sandbox) -> str:
    """What root alone owns: names, owners and modes."""
    return shell(sandbox, "cd /root/prize && stat -c '%n %U %a' . *").text


def prepare(sandbox: Sandbox) -> str:
    """Make the prize anew, and a directory of the attacker's."""
    shell(sandbox, "rm -rf /root/prize /dev/shm/trap; mkdir -p /root/prize/sub && cd /root/prize && echo safe > f && cp /bin/true g && chmod 755 /root .")
    shell(sandbox, "mkdir -p /dev/shm/trap/real && ln -s real /dev/shm/trap/cur", user="user")
    return prize_of(sandbox)


def test_program_cannot_be_given_a_file_under_an_upload(attacker: Sandbox) -> None:
    """A program swaps a link during an upload without a user. No existing file changes its owner or mode."""
    before = prepare(attacker)
    with attack(attacker, "/dev/shm/trap", _SWAP_LINKS) as end:
        while time.monotonic() < end:
            with contextlib.suppress(SandboxException):
                attacker.files.write("/dev/shm/trap/cur/f", "written")
            with contextlib.suppress(SandboxException):
                attacker.files.make_dir("/dev/shm/trap/cur/sub")
    assert prize_of(attacker) == before


def test_program_cannot_be_given_a_file_under_a_move(attacker: Sandbox) -> None:
    """A directory that is moved to another file system is copied. No program can redirect the copy by a link."""
    before = prepare(attacker)
    shell(attacker, "mkdir -p /home/user/tree/sub/h && cd /home/user/tree && touch f{1..150} sub/{f,g,{1..150}} sub/h/{1..50}", user="user")
    moved = 0
    with attack(attacker, "/dev/shm/trap", _TAKE_COPIES) as end:
        for number in itertools.count():
            if time.monotonic() > end:
                break
            with contextlib.suppress(SandboxException):
                attacker.files.rename("/home/user/tree", f"/dev/shm/trap/moved{number}")
                attacker.files.rename(f"/dev/shm/trap/moved{number}", "/home/user/tree")
                moved += 1
    assert prize_of(attacker) == before
    assert moved


def test_named_user_cannot_do_more_than_that_user(attacker: Sandbox) -> None:
    """Threads that have just worked with root's power have none of it left for a user who is named."""
    prepare(attacker)
    for _ in range(40):  # more often than the agent has threads
        attacker.files.write("/root/prize/f", "1")
        for path in ("/root/prize/f", "/root/prize/new"):
            with pytest.raises(SandboxException, match="permission denied"):
                attacker.files.write(path, "2", user="user")
        with pytest.raises(SandboxException, match="permission denied"):
            attacker.files.remove("/root/prize/f", user="user")


def test_named_user_has_no_power_left_in_the_same_thread() -> None:
    """A request without a user leaves its thread no capability. The next request, with a named user, has none of root's."""
    program = """
from cloister.agent.accounts import Account
from cloister.agent.filesystem.users import Unrestricted, Workers

def effective():
    status = open("/proc/thread-self/status").read()
    return int(status.split("CapEff:")[1].split()[0], 16)

workers = Workers(1)
account = Account("user", 1000, 1000, (1000,), "/", "/bin/sh")
unnamed = workers.submit(Unrestricted(**vars(account)), effective).result()
named = workers.submit(account, effective).result()
print(unnamed & 0xb, named & 0xb)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["11", "0"]
