"""The console in a real browser, against a real server: a person's way from the login to a kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from e2b_code_interpreter import Sandbox

from framework.browser import Console, browser, console, log_in, opened, shoot
from framework.server import Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["browser", "console"]

_SCRIPT = "<img src=x onerror=window.attacked=1>"
_PLOT = "import matplotlib.pyplot as plt; plt.plot([1, 4, 9]); plt.show()"


@pytest.fixture
def sandbox(server: Server) -> Iterator[Sandbox]:
    """A sandbox to look into."""
    made = Sandbox.create(timeout=300, metadata={"purpose": "console"}, **server.sdk)
    yield made
    made.kill()


def test_code_runs_and_its_plot_is_shown(console: Console, sandbox: Sandbox) -> None:
    """Python shows its plot, JavaScript its output, and an error its traceback. Each language keeps its state."""
    console.open(f"#/sandbox/{sandbox.sandbox_id}")
    console.tab("Code")
    page = console.page
    page.get_by_label("Code of cell 1").fill(f"kept = 20\n{_PLOT}")
    page.keyboard.press("Shift+Enter")
    plot = page.get_by_label("Output of cell 1").get_by_role("img")
    plot.wait_for()
    assert plot.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    page.get_by_label("Code of cell 2").fill("print(kept + 1)\n1 / 0")
    page.keyboard.press("Shift+Enter")
    output = page.get_by_label("Output of cell 2")
    output.get_by_text("21").wait_for()
    output.get_by_text("ZeroDivisionError").first.wait_for()
    shoot(console, "code")


def test_code_and_files_work_at_the_host_of_the_api(browser: Browser, server: Server, sandbox: Sandbox) -> None:
    """At ``api.<domain>``, where clients of a public domain find the API, the console reaches sandboxes too."""
    sandbox.files.write("seen-by-the-console", "")
    url = server.url.replace("127.0.0.1", "api.localhost")
    with opened(browser, url) as shown:
        log_in(shown, server.api_key)
        shown.open(f"#/sandbox/{sandbox.sandbox_id}")
        shown.tab("Code")
        shown.page.get_by_label("Code of cell 1").fill("print(6 * 7)")
        shown.page.keyboard.press("Shift+Enter")
        shown.page.get_by_label("Output of cell 1").get_by_text("42").wait_for()
        shown.tab("Files")
        shown.page.get_by_text("seen-by-the-console").wait_for()


def test_a_flood_waits_in_the_terminal(console: Console, sandbox: Sandbox) -> None:
    """A program that prints without end can be interrupted, and the shell goes on."""
    console.open(f"#/sandbox/{sandbox.sandbox_id}")
    console.tab("Terminal")
    page = console.page
    page.locator(".xterm-rows").get_by_text("$").first.wait_for()
    page.keyboard.type("yes flooding\n")
    page.locator(".xterm-rows").get_by_text("flooding").nth(5).wait_for()
    page.keyboard.press("Control+c")
    page.keyboard.type("clear; echo back-$((6 * 7))\n")
    page.locator(".xterm-rows").get_by_text("back-42").first.wait_for()


def test_a_terminal_takes_what_is_typed(console: Console, sandbox: Sandbox) -> None:
    """Keys reach a shell in the sandbox and its output comes back."""
    console.open(f"#/sandbox/{sandbox.sandbox_id}")
    console.tab("Terminal")
    page = console.page
    page.locator(".xterm-rows").get_by_text("$").first.wait_for()
    page.keyboard.type("echo typed-$((6 * 7)) > seen; cat seen\n")
    page.locator(".xterm-rows").get_by_text("typed-42").first.wait_for()
    assert sandbox.files.read("seen") == "typed-42\n"
    shoot(console, "terminal")


def test_files_go_up_and_come_down(console: Console, sandbox: Sandbox, tmp_path: Path) -> None:
    """An uploaded file is in the sandbox, and a download has the same bytes. Script in names of files and in the log is text."""
    content = bytes(range(256)) * 40
    (tmp_path / "given.bin").write_bytes(content)
    sandbox.files.write(_SCRIPT, "")
    sandbox.commands.run(f"cat > /dev/null <<'E'\n{_SCRIPT}\nE")
    console.open(f"#/sandbox/{sandbox.sandbox_id}")
    console.tab("Files")
    page = console.page
    page.get_by_text(_SCRIPT).wait_for()
    page.get_by_label("Files to upload").set_input_files(tmp_path / "given.bin")
    row = page.get_by_role("row").filter(has_text="given.bin")
    row.wait_for()
    assert sandbox.files.read("given.bin", format="bytes") == content
    with page.expect_download() as download:
        row.get_by_role("button", name="Download").click()
    assert Path(download.value.path()).read_bytes() == content
    shoot(console, "files")
    page.get_by_label("Directory").fill("/nowhere")
    page.keyboard.press("Enter")
    page.get_by_role("alert").get_by_text("does not exist").wait_for()
    assert row.count() == 0, "the files of another directory are shown"
    console.tab("Processes")
    page.get_by_role("region", name="Processes").wait_for()
    console.tab("Logs")
    page.get_by_role("combobox", name="Level").select_option("debug")
    page.get_by_role("log").get_by_text("onerror").first.wait_for()
    assert page.evaluate("() => window.attacked") is None


def test_a_kill_is_explained(console: Console, sandbox: Sandbox) -> None:
    """The list finds a sandbox by its metadata. A kill asks first and ends it, and its page gives the reason."""
    console.open("")
    page = console.page
    page.get_by_label("Filter").fill(f"purpose=console {sandbox.sandbox_id}")
    page.get_by_role("checkbox", name=f"Choose {sandbox.sandbox_id}").check()
    page.get_by_role("toolbar").get_by_role("button", name="Kill").click()
    page.get_by_role("dialog").get_by_role("button", name="Kill").click()
    page.get_by_text("0 of").wait_for()
    assert not sandbox.is_running()
    console.open(f"#/sandbox/{sandbox.sandbox_id}")
    page.get_by_text("killed").first.wait_for()


def test_a_sandbox_is_prolonged_paused_resumed_and_forked(console: Console, sandbox: Sandbox, server: Server) -> None:
    """Each button of a sandbox's page does its work, and the page shows the new state. A fork's page opens."""
    sandbox.files.write("kept", "1")
    before = sandbox.get_info().end_at
    console.open(f"#/sandbox/{sandbox.sandbox_id}")
    page = console.page
    buttons, state = page.get_by_role("toolbar", name="Actions"), page.locator(".bar").get_by_role("status")
    state.get_by_text("running").wait_for()
    buttons.get_by_role("button", name="+1 h").click()
    page.locator("button[aria-busy=true]").wait_for(state="detached")
    assert (sandbox.get_info().end_at - before).total_seconds() > 3000
    buttons.get_by_role("button", name="Pause").click()
    state.get_by_text("paused").wait_for()
    buttons.get_by_role("button", name="Resume").click()
    state.get_by_text("running").wait_for()
    buttons.get_by_role("button", name="Fork files").click()
    page.wait_for_url(lambda url: not url.endswith(sandbox.sandbox_id))
    copy = Sandbox.connect(page.url.rpartition("/")[2], **server.sdk)
    assert copy.files.read("kept") == "1"
    copy.kill()
