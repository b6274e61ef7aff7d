"""Measures template builds through the official SDK, cold and cached, and the first sandbox of a new template. See README.md."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from e2b import Template
from e2b_code_interpreter import Sandbox

from framework.server import Server, running_server

Samples = dict[str, list[float]]
FILES = 10_000
_STOCK = "code-interpreter-v1"


def timed(samples: Samples, name: str, action: Callable[[], Any]) -> Any:
    """Run ``action`` and store its milliseconds under ``name``."""
    began = time.perf_counter()
    result = action()
    samples.setdefault(name, []).append((time.perf_counter() - began) * 1000)
    return result


def many_files(directory: Path) -> None:
    """FILES small files in a hundred directories, different from those of any earlier run."""
    for number in range(FILES):
        path = directory / "tree" / str(number % 100) / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number} {uuid.uuid4()}\n")


def unpack_on_host(samples: Samples, directory: Path) -> None:
    """The floor of a COPY: pack the files, unpack them, copy the tree, all on the host."""
    with tempfile.TemporaryDirectory() as place:
        archive, first, second = (Path(place) / name for name in ("archive.tar.gz", "first", "second"))

        def work() -> None:
            with tarfile.open(archive, "w:gz") as tar:
                tar.add(directory / "tree", "tree")
            first.mkdir()
            subprocess.run(["tar", "-xzf", archive, "-C", first], check=True)
            subprocess.run(["cp", "-a", first, second], check=True)

        timed(samples, f"floor: tar, untar, cp of {FILES} files", work)


def builds(samples: Samples, server: Server, directory: Path) -> None:
    """One build of each kind, cold with a new step, and again from the cache."""
    mark = uuid.uuid4().hex

    def twice(name: str, template: Any) -> None:
        for state in ("cold", "cached"):
            timed(samples, f"{name}, {state}", lambda: Template.build(template, f"bench-{name.split(maxsplit=1)[0].lower()}", **server.sdk))

    def context() -> Any:
        return Template(file_context_path=directory).from_template("base")

    twice("RUN true", context().run_cmd(f"true {mark}"))
    ten = context()
    for number in range(10):
        ten = ten.run_cmd(f"echo {mark} > {number}")
    twice("10 small steps", ten)
    twice(f"COPY of {FILES} files", context().copy("tree", "/srv/tree"))
    twice("pip install of a package", context().run_cmd(f"true {mark}").pip_install("tinydb"))


def first_sandbox(samples: Samples, server: Server) -> None:
    """Create and first answer: the first sandbox of a new template, the next ones, and those of a stock template."""
    name = f"bench-first-{uuid.uuid4().hex[:8]}"
    Template.build(Template().from_template(_STOCK).run_cmd(f"echo {name} > /home/user/name"), name, **server.sdk)
    for row, template in (("first sandbox of a template", name), ("second sandbox", name), (f"sandbox of {_STOCK}", _STOCK)):
        time.sleep(1.0)  # the pool creates the next one
        sandbox = timed(samples, f"{row}: create", partial(Sandbox.create, template, timeout=60, **server.sdk))
        timed(samples, f"{row}: first run", partial(sandbox.run_code, "1 + 1"))
        sandbox.kill()


def slow_start(samples: Samples, server: Server) -> None:
    """A template whose start command is ready after two seconds: its build, and a sandbox right after it."""
    name = f"bench-start-{uuid.uuid4().hex[:8]}"
    steps = Template().from_template("base").run_cmd(f"echo {name} > /tmp/name")
    template = steps.set_start_cmd("sleep 2; touch /tmp/up; sleep infinity", "test -e /tmp/up")
    timed(samples, "start command of 2 s: build", partial(Template.build, template, name, **server.sdk))
    timed(samples, "start command of 2 s: create", partial(Sandbox.create, name, timeout=60, **server.sdk)).kill()


def snapshots(samples: Samples, server: Server) -> None:
    """Snapshots of a live sandbox with few and with many bytes."""
    for name, command in (("a few files", "echo x > note"), ("100 MB", "head -c 100000000 /dev/urandom > data")):
        with Sandbox.create("base", timeout=60, **server.sdk) as sandbox:
            sandbox.commands.run(command)
            timed(samples, f"snapshot of {name}", sandbox.create_snapshot)


def main() -> None:
    """Measure, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "templates.json")
    args = parser.parse_args()
    samples: Samples = {}
    with running_server() as server:
        for number in range(args.rounds):
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
            with tempfile.TemporaryDirectory() as place:
                many_files(Path(place))
                unpack_on_host(samples, Path(place))
                builds(samples, server, Path(place))
            first_sandbox(samples, server)
            slow_start(samples, server)
            snapshots(samples, server)
    print(f"{'ms':44}{'median':>10}{'least':>10}{'most':>10}")
    for name, values in samples.items():
        print(f"{name:44}{sorted(values)[len(values) // 2]:10.1f}{min(values):10.1f}{max(values):10.1f}")
    args.output.parent.mkdir(exist_ok=True)
    document = {"host": platform.platform(), "at": time.time(), "rounds": args.rounds, "samples": samples}
    args.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
