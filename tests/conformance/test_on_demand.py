"""Templates that are built on demand: their programs run, and the desktop does what its unmodified SDKs ask of it.

Their builds take minutes and gigabytes, so these tests run only when they are asked for: ``scripts/test -m on_demand``.
"""

from __future__ import annotations

import importlib
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from e2b import Sandbox

from cloister.model.template import ON_DEMAND
from framework.server import Server
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.on_demand, pytest.mark.timeout(3000)]

EXAMPLES = Path(__file__).parents[2] / "examples"
AGENTS = ("claude", "codex", "opencode")
CLIENT = "e2b-desktop==2.7.2"
JS_CLIENT = "@e2b/desktop@2.4.0"


@pytest.fixture(scope="module", autouse=True)
def built(stock_templates: None) -> None:
    """All of them, in their present definition."""
    for name in ON_DEMAND:
        subprocess.run([sys.executable, "-m", "cloister.cli.main", "template", "build", name], check=True)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The Python SDK of the desktop, on top of the SDK that is here."""
    directory = tmp_path_factory.mktemp("e2b-desktop")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", directory, CLIENT], check=True)
    sys.path.insert(0, str(directory))
    try:
        yield importlib.import_module("e2b_desktop")
    finally:
        sys.path.remove(str(directory))


def pixels_of(png: bytes) -> tuple[int, int, bytes]:
    """Width, height and the decompressed rows of an image."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    data, at = b"", 8
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        data += png[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    return width, height, zlib.decompress(data)


def windows(desktop: Any, name: str) -> list[str]:
    """Ids of the visible windows of a program; none while there is none."""
    done = desktop.commands.run(f"xdotool search --onlyvisible --class {name} || true")
    return str(done.stdout).split()


def test_desktop(server: Server, client: ModuleType) -> None:
    """The desktop is seen, clicked, written to, and streamed with and without a password; programs and pages are opened."""
    desktop = client.Sandbox.create(resolution=(1280, 720), dpi=96, timeout=600, **server.sdk)
    with desktop:
        assert desktop.get_screen_size() == (1280, 720)
        eventually(lambda: len(set(pixels_of(bytes(desktop.screenshot()))[2])) > 20, timeout_s=60)  # panels and icons are drawn
        width, height, empty = pixels_of(bytes(desktop.screenshot()))
        assert (width, height) == (1280, 720)

        desktop.launch("xfce4-terminal")
        eventually(lambda: windows(desktop, "xfce4-terminal") != [], timeout_s=60)
        window = desktop.get_application_windows("xfce4-terminal")[-1]
        eventually(lambda: "Terminal" in desktop.get_window_title(window))
        place = desktop.commands.run(f"xdotool getwindowgeometry --shell {window}").stdout
        left, top = (int(re.findall(rf"^{name}=(\d+)$", place, re.MULTILINE)[0]) for name in "XY")
        desktop.left_click(left + 100, top + 100)
        assert desktop.get_cursor_position() == (left + 100, top + 100)
        eventually(lambda: desktop.get_current_window_id() != "")
        desktop.write("echo it is $((40 + 2)) > /tmp/written")
        desktop.press("enter")
        eventually(lambda: desktop.files.exists("/tmp/written"))
        assert desktop.files.read("/tmp/written") == "it is 42\n"
        assert pixels_of(bytes(desktop.screenshot()))[2] != empty
        desktop.press(["ctrl", "d"])
        eventually(lambda: windows(desktop, "xfce4-terminal") == [])

        desktop.files.write("page.html", "<title>A page of ours</title><body style='background:#123456'>")
        desktop.open("/home/user/page.html")
        eventually(lambda: any("A page of ours" in desktop.get_window_title(one) for one in windows(desktop, "firefox")), timeout_s=120)
        desktop.drag((400, 300), (500, 350))
        desktop.scroll("down", 2)
        check_stream(server, desktop)


def check_stream(server: Server, desktop: Any) -> None:
    """Started, reached, stopped; then with a password, without which the screen is not shown."""
    security = "exec 3<>/dev/tcp/127.0.0.1/5900; head -c 12 <&3; printf 'RFB 003.008\\n' >&3; head -c 2 <&3 | od -An -tu1"
    for number, (require_auth, kinds) in enumerate(((False, [1]), (True, [2]))):
        desktop.stream.start(require_auth=require_auth)
        headers = {"E2b-Sandbox-Id": desktop.sandbox_id, "E2b-Sandbox-Port": "6080"}
        page = httpx.get(f"{server.url}/vnc.html", headers=headers)
        assert (page.status_code, "noVNC" in page.text) == (200, True)
        said = desktop.commands.run(security).stdout
        assert said.startswith("RFB 003.008")
        assert [int(one) for one in said.split()[-2:]] == [1, *kinds]
        assert "/vnc.html?autoconnect=true" in desktop.stream.get_url()
        assert bool(require_auth and desktop.stream.get_auth_key()) is require_auth, number
        desktop.stream.stop()
        eventually(lambda: desktop.commands.run("pgrep -x x11vnc || true").stdout == "")


def test_desktop_example(server: Server, tmp_path: Path, client: ModuleType) -> None:
    """The examples run, in Python and in JavaScript, and leave a picture of the screen."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **server.environ}
    environ["PYTHONPATH"] = str(Path(str(client.__file__)).parents[1])
    subprocess.run(["npm", "install", "--no-audit", "--no-fund", JS_CLIENT], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "desktop.mjs").write_text((EXAMPLES / "desktop" / "desktop.mjs").read_text())
    for argv in ([sys.executable, str(EXAMPLES / "desktop" / "desktop.py")], ["node", "desktop.mjs"]):
        done = subprocess.run(argv, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"screen: 1024 x 768\nwindow: .*Mousepad\nsaved: screen.png, \d+ bytes\n", done.stdout), done.stdout
        assert pixels_of((tmp_path / "screen.png").read_bytes())[:2] == (1024, 768)


@pytest.mark.parametrize("name", AGENTS)
def test_agents(server: Server, name: str) -> None:
    """The program of the template runs as the default user, in the locked version, and without a key says that it has none."""
    with Sandbox.create(name, timeout=300, **server.sdk) as sandbox:
        version = sandbox.commands.run(f"{name} --version", timeout=120).stdout
        locked = sandbox.commands.run(f"jq -r '.dependencies[]' /opt/{name}/package.json").stdout.strip()
        assert locked in version
        assert sandbox.commands.run(f"command -v {name}").stdout == f"/usr/bin/{name}\n"


def test_list_names_them() -> None:
    """``template list`` shows what is built, with its size."""
    shown = subprocess.run([sys.executable, "-m", "cloister.cli.main", "template", "list"], check=True, capture_output=True, text=True).stdout
    for name in ON_DEMAND:
        assert re.search(rf"^{name} +\d+ MiB", shown, re.MULTILINE)
