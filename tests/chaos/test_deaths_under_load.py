"""kill -9 of any host process at random moments, while templates are built, snapshots taken and the store collected (I8)."""

from __future__ import annotations

import contextlib
import http.client
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from e2b import Sandbox, Template
from e2b.template.main import TemplateBuilder

from framework.http import Answer, call
from framework.server import Server, running_server
from framework.template_store import own_store

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.slow]

_VICTIMS = ("node", "api", "node", "launcher")


class Load:
    """Clients that build, start and freeze things until they are told to stop, whatever happens to the server."""

    def __init__(self, server: Server, store: Path, directory: Path, seed: int) -> None:
        self._server = server
        self._store = store
        self._directory = directory
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self.builds: list[tuple[str, str]] = []
        """Template and build id of each that was started."""
        self.done = dict.fromkeys(("build", "upload", "snapshot", "collect"), 0)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """While the block lasts."""
        work = (self._build, self._upload, self._snapshot, self._collect)
        threads = [threading.Thread(target=self._repeat, args=(one,)) for one in work]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _repeat(self, work: Callable[[int], None]) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            with contextlib.suppress(Exception):  # what a client is told while the server is away is not what is tested here
                work(number)
                self.done[work.__name__.removeprefix("_")] += 1
            time.sleep(0.05)

    def _build(self, number: int) -> None:
        steps = (
            Template().from_template("base").run_cmd(f"echo {number % 3} > /tmp/a; sleep 0.3").run_cmd(f"echo {number} > /tmp/b; sleep 0.3")
        )
        self._wait(self._start(steps, f"chaos-{number % 4}"))

    def _upload(self, number: int) -> None:
        source = self._directory / "context"
        source.mkdir(exist_ok=True)
        (source / "data").write_bytes(random.Random(number).randbytes(3_000_000))
        self._wait(self._start(Template(file_context_path=source).from_template("base").copy("data", "/tmp/data"), "chaos-upload"))

    def _start(self, steps: TemplateBuilder, name: str) -> tuple[str, str]:
        info = Template.build_in_background(steps, name, api_key=self._server.api_key, api_url=self._server.url)
        self.builds.append((info.template_id, info.build_id))
        return self.builds[-1]

    def _wait(self, build: tuple[str, str]) -> None:
        until = time.monotonic() + 15
        while not self._stop.is_set() and time.monotonic() < until:
            if status_of(self._server, build) in {"ready", "error", "gone"}:
                return
            time.sleep(0.1)

    def _snapshot(self, _number: int) -> None:
        sandbox = Sandbox.create("base", timeout=60, **self._server.sdk)
        sandbox.files.write("/home/user/big", b"x" * 5_000_000)
        snapshot = sandbox.create_snapshot()
        Sandbox.create(snapshot.snapshot_id, timeout=60, **self._server.sdk).kill()
        sandbox.kill()

    def _collect(self, _number: int) -> None:
        self._server.cli("template", "gc", "--all", env={"CLOISTER_STORE_DIR": str(self._store)})
        self._stop.wait(2.0)


def status_of(server: Server, build: tuple[str, str]) -> str:
    """A build's status, as a client sees it; "" while the server is away."""
    try:
        answer = get(server, f"/templates/{build[0]}/builds/{build[1]}/status")
    except (OSError, http.client.HTTPException):
        return ""
    return str(answer.json()["status"]) if answer.status == 200 else "gone" if answer.status == 404 else ""


def get(server: Server, path: str) -> Answer:
    """A request of the team's."""
    return call(server.url, "GET", path, headers={"X-API-KEY": server.api_key})


def kill_launcher(server: Server) -> None:
    """Kill -9 the launcher; its children end by themselves."""
    children = [server.child("node"), server.child("api")]
    server.process.kill()
    server.process.wait()
    until = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < until, "the launcher's children live on without it"
        time.sleep(0.05)


def cause_deaths(directory: Path, victims: Sequence[str], seed: int) -> dict[str, int]:
    """Run the load while one of the ``victims`` after the other is killed; then everything must come to its end. What the load got done."""
    chance, store = random.Random(seed), own_store(directory / "store")
    options = ("--store-dir", str(store), "--pool-size", "1", "--disk-reserve-mib", "64")
    (directory / "data").mkdir()
    with contextlib.ExitStack() as servers:
        server = servers.enter_context(running_server(*options, data_dir=directory / "data"))
        load = Load(server, store, directory, seed)
        with load.running():
            for victim in victims:
                time.sleep(chance.uniform(0.1, 2.5))
                if victim != "launcher":
                    server.kill_child(victim)
                    continue
                kill_launcher(server)
                address = server.url.removeprefix("http://")
                server.process = servers.enter_context(running_server("--listen", address, *options, data_dir=directory / "data")).process
        expect_ends(server, load)
        expect_nothing_left(server, store)
        return {**load.done, "builds": len(load.builds)}


def expect_ends(server: Server, load: Load) -> None:
    """Every build has an end, and the server builds and creates as ever."""
    until = time.monotonic() + 90
    for build in load.builds:
        while (status := status_of(server, build)) not in {"ready", "error", "gone"}:
            assert time.monotonic() < until, f"build {build[1]} is still {status or 'unknown'}"
            time.sleep(0.1)
    info = Template.build(
        Template().from_template("base").run_cmd("echo fine > /tmp/fine"), "after", api_key=server.api_key, api_url=server.url
    )
    with Sandbox.create("after", timeout=60, **server.sdk) as sandbox:
        assert sandbox.files.read("/tmp/fine") == "fine\n"
    assert status_of(server, (info.template_id, info.build_id)) == "ready"


def expect_nothing_left(server: Server, store: Path) -> None:
    """Of boxes, workspaces, journals, requests, archives that broke off, mounts and loop devices; a collection is content."""
    for sandbox in get(server, "/v2/sandboxes").json():
        Sandbox.kill(sandbox["sandboxID"], api_key=server.api_key, api_url=server.url)
    node = server.data_dir / "node"
    until = time.monotonic() + 20
    while left := [
        *(path for path in (node / "boxes").iterdir() if path.name != "empty"),
        *node.glob("builds/*/request.json"),
        *(store / "tmp").iterdir(),
        *(server.data_dir / "api" / "uploads" / ".incoming").iterdir(),
    ]:
        assert time.monotonic() < until, left
        time.sleep(0.2)
    server.census()
    gone = server.cli("template", "gc", "--dry-run", env={"CLOISTER_STORE_DIR": str(store)}).stdout
    assert "would remove 0" in gone, gone


@pytest.mark.timeout(240)
def test_deaths_of_any_process_under_load_lose_nothing(stock_templates: None) -> None:
    """Every build that was begun ends, what was made can be used, and nothing is left of what was cut off."""
    seed = random.randrange(1 << 31)
    print(f"seed {seed}")
    victims = random.Random(seed).sample(_VICTIMS, len(_VICTIMS))
    with tempfile.TemporaryDirectory(prefix="cloister-test-") as name:
        Path(name).chmod(0o755)
        done = cause_deaths(Path(name), victims, seed)
    print(done)
    assert done["builds"] > 0
