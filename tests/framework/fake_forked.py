"""The fake driver as one that was forked for an agent: hello, adoption, then its cells. ``ADOPTED`` is what the agent said of it.

The argument says what goes wrong: ``--gone`` and ``--silent`` (no hello), ``--short`` (it ends after the hello), ``--unfit`` (after that).
"""

from __future__ import annotations

import json
import os
import runpy
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

ADOPTED: dict[str, Any] = {}


def be_born() -> None:
    """Say hello and become what the agent says."""
    channel = socket.socket(fileno=os.dup(3))
    own = struct.pack("=iII", os.getpid(), os.getuid(), os.getgid())
    channel.sendmsg([b"B"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, own)])
    if "--short" in sys.argv:
        sys.exit(5)
    first, descriptors, _, _ = socket.recv_fds(channel, 1, 2)
    for target, fd in enumerate(descriptors, 1):
        os.dup2(fd, target)
        os.close(fd)
    line = bytearray(first)
    while not line.endswith(b"\n"):
        line += channel.recv(1 << 16)
    ADOPTED.update(json.loads(line))
    os.chdir(ADOPTED["cwd"])
    os.environ.clear()
    os.environ.update(ADOPTED["env"])
    channel.close()


if __name__ == "__main__":
    if "--gone" in sys.argv:
        sys.exit(4)
    if "--silent" in sys.argv:
        time.sleep(60)
    be_born()
    if "--unfit" in sys.argv:
        os.write(2, b"no such module: fake\n")
        sys.exit(6)
    sys.modules["adopted"] = sys.modules["__main__"]
    runpy.run_path(str(Path(__file__).with_name("fake_driver.py")), run_name="__main__")
