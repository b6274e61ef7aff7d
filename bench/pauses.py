"""Pauses and resumes while supervisor and api process are killed at random moments; then a check for lost bytes and leftovers.

Each sandbox keeps bytes in a process and in a file, and changes both before every pause (keeper.py). After every resume the digests are
compared with those of a twin outside. Exit code 1 if a byte or a sandbox is lost, or the census is not empty after the server's stop.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import keeper
from bench.progress import clock, end_orderly
from bench.stats import write_results

from framework.http import Answer, call
from framework.server import Server, running_server

_PATIENCE_S = 60.0
"""A call is repeated so long while the server's processes come back."""
_LIFETIME_S = 3600
_ENVD = 49983
_FILES_ONLY = 0.25
"""Share of the pauses that keep the files only."""


@dataclass(frozen=True)
class Plan:
    """The amount of work. ``limit_s`` ends it early. ``kill_every_s`` is the mean time between two kills of a process, 0 for none."""

    cycles: int
    at_once: int
    seed: int
    limit_s: float
    kill_every_s: float = 3.0
    longest_pause_s: float = 0.0
    """A pause lasts a random time up to this."""


@dataclass
class Outcome:
    """The result of a run, and all faults."""

    done: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    saved: int = 0
    """Pauses whose memory went to disk."""
    findings: list[str] = field(default_factory=list)
    took_s: float = 0.0

    @property
    def cycles(self) -> int:
        """Pauses after which everything was as it should be."""
        return sum(count for name, count in self.done.items() if name.startswith("pause"))


class LostError(Exception):
    """A byte or a sandbox is lost, or a call was not answered in time."""


class Client:
    """One sandbox, and the client that pauses and resumes it."""

    def __init__(self, server: Server, seed: int, longest_pause_s: float, outcome: Outcome) -> None:
        self._server, self._longest_pause_s, self._outcome = server, longest_pause_s, outcome
        self._random = random.Random(seed)
        self._twin = keeper.Keeper(None)
        created = self._api("POST", "/v2/sandboxes", self._wish(), {201}).json()
        self.sandbox_id, self._token = created["sandboxID"], created["envdAccessToken"]
        self._path = f"/sandboxes/{self.sandbox_id}"
        source = Path(keeper.__file__).read_bytes()
        self._inside(_ENVD, "POST", "/files?path=keeper.py&username=user", source, {200})
        self._start()
        self.check()

    def _wish(self) -> dict[str, Any]:
        return {"templateID": "base", "timeout": _LIFETIME_S, "autoPause": True, "autoResume": {"enabled": True}}

    def cycle(self) -> None:
        """Change the bytes, pause in one way, resume in another, and compare. Raises: LostError."""
        self._turn()
        keeps_memory = self._random.random() >= _FILES_ONLY
        how = self._pause(keeps_memory=keeps_memory)
        time.sleep(self._random.uniform(0, self._longest_pause_s))
        self._resume(keeps_memory=keeps_memory)
        if not keeps_memory:
            self._twin.restart()
            self._start()
        self.check()
        self._outcome.done[how] += 1

    def kill(self) -> None:
        """End the sandbox. Raises: LostError if it has ended already, but for a kill whose answer was lost."""
        answer = self._api("DELETE", self._path, None, {204, 404})
        if answer.status == 404 and "it was killed" not in answer.json()["message"]:
            raise LostError(f"{self.sandbox_id} had ended: {answer.body!r}")

    def check(self) -> None:
        """Compare the bytes with those of the twin. Raises: LostError."""
        self._ask(self._twin.file_turn, self._twin.memory_turn)

    def _turn(self) -> None:
        self._ask(self._twin.file_turn + 1, self._twin.memory_turn + 1)

    def _ask(self, file_turn: int, memory_turn: int) -> None:
        wanted = self._twin.take(file_turn, memory_turn)
        answer = self._inside(keeper.PORT, "GET", f"/turn/{file_turn}/{memory_turn}", None, {200})
        if answer.body.decode() != wanted:
            raise LostError(f"{self.sandbox_id} has lost bytes: {answer.body.decode()} instead of {wanted}")

    def _pause(self, *, keeps_memory: bool) -> str:
        how = "pause with memory" if keeps_memory else "pause of files"
        if keeps_memory and self._random.random() < 0.3:
            how = "pause at the end of the time"
            self._api("POST", f"{self._path}/timeout", {"timeout": 0}, {204, 404, 409})
        else:
            self._api("POST", f"{self._path}/pause", {"memory": keeps_memory}, {204, 409})
        self._until("paused")
        return how

    def _resume(self, *, keeps_memory: bool) -> None:
        way = self._random.choice(("resume", "connect", "request") if keeps_memory else ("resume", "connect"))
        if way == "request":
            self._inside(keeper.PORT, "GET", f"/turn/{self._twin.file_turn}/{self._twin.memory_turn}", None, {200})
        else:
            self._api("POST", f"{self._path}/{way}", {"timeout": _LIFETIME_S}, {200, 201, 409})
        self._until("running")
        self._outcome.done[f"{way} of one that was paused"] += 1

    def _until(self, wanted: str) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while (state := self._api("GET", self._path, None, {200}).json()["state"]) != wanted:
            if time.monotonic() > deadline:
                raise LostError(f"{self.sandbox_id} is {state} and does not become {wanted}")
            time.sleep(0.05)

    def _start(self) -> None:
        """Start the keeper, and wait until it serves."""
        command = {"cmd": "/bin/bash", "args": ["-c", "setsid python3 keeper.py > /dev/null 2>&1 &"], "envs": {}}
        message = json.dumps({"process": command, "stdin": False}).encode()
        framed = b"\0" + len(message).to_bytes(4, "big") + message
        headers = {"Content-Type": "application/connect+json", "Authorization": "Basic dXNlcjo="}
        self._inside(_ENVD, "POST", "/process.Process/Start", framed, {200}, headers)

    def _inside(self, port: int, method: str, path: str, body: Any, right: set[int], more: dict[str, str] | None = None) -> Answer:
        headers = {"E2b-Sandbox-Id": self.sandbox_id, "E2b-Sandbox-Port": str(port), **(more or {})}
        if port == _ENVD:
            headers["X-Access-Token"] = self._token
            headers.setdefault("Content-Type", "application/octet-stream")
        return self._until_answered(method, path, body, headers, right)

    def _api(self, method: str, path: str, body: Any, right: set[int]) -> Answer:
        return self._until_answered(method, path, body, {"X-API-KEY": self._server.api_key}, right)

    def _until_answered(self, method: str, path: str, body: Any, headers: dict[str, str], right: set[int]) -> Answer:
        """Repeat a call while a process of the server is away. Raises: LostError: another status, or the patience is over."""
        deadline, said = time.monotonic() + _PATIENCE_S, ""
        while time.monotonic() < deadline:
            try:
                answer = call(self._server.url, method, path, body=body, headers=headers)
            except (OSError, http.client.HTTPException) as error:
                said = repr(error)
            else:
                if answer.status in right:
                    return answer
                said = f"{answer.status} {answer.body[:300]!r}"
                if answer.status not in {500, 502, 503, 504}:
                    break
            self._outcome.repeated += 1
            time.sleep(0.1)
        raise LostError(f"{method} {path} for {headers.get('E2b-Sandbox-Id', 'the API')}: {said}")


class Killer:
    """Kills a child of the server's launcher at random moments, until it is told to stop.

    After every second kill it waits until the server serves: on a busy host kills would come faster than starts, and no call be answered.
    """

    def __init__(self, server: Server, plan: Plan, outcome: Outcome) -> None:
        self._server, self._every_s, self._outcome = server, plan.kill_every_s, outcome
        self._random = random.Random(plan.seed ^ 0x5EED)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Self:
        if self._every_s:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._every_s:
            self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(self._random.uniform(0, 2 * self._every_s)):
            name = self._random.choice(("node", "api"))
            self._server.kill_child(name)
            self._outcome.kills[name] += 1
            while self._outcome.kills.total() % 2 == 0 and not self._serves() and not self._stop.wait(0.05):
                pass

    def _serves(self) -> bool:
        try:
            return call(self._server.url, "GET", "/health").status == http.client.OK  # it is 503 while the supervisor is away
        except (OSError, http.client.HTTPException):
            return False


def pauses(server: Server, plan: Plan, show: Callable[[str], None]) -> Outcome:
    """Run the cycles. Leaves no sandbox on the server, unless one was lost."""
    outcome, began = Outcome(), time.monotonic()
    deadline = began + plan.limit_s
    chance, lock, left = random.Random(plan.seed), threading.Lock(), plan.cycles
    clients = [Client(server, chance.randrange(1 << 31), plan.longest_pause_s, outcome) for _ in range(plan.at_once)]

    def work(client: Client) -> None:
        nonlocal left
        try:
            while time.monotonic() < deadline:
                with lock:
                    if not left:
                        break
                    left -= 1
                    if left % 50 == 0:
                        show(f"  {left} cycles left, {clock(max(0.0, deadline - time.monotonic()))} left of the time")
                client.cycle()
        except LostError as error:
            outcome.findings.append(str(error))

    with Killer(server, plan, outcome), ThreadPoolExecutor(plan.at_once) as pool:
        list(pool.map(work, clients))
    for client in clients:
        try:
            client.kill()
        except LostError as error:
            outcome.findings.append(f"at the end: {error}")
    said = server.log.read_text()  # has them if the log level is info
    outcome.saved = sum("sandbox.memory_moved" in line and '"checkpoint"' in line for line in said.splitlines())
    outcome.took_s = time.monotonic() - began
    return outcome


def tell(outcome: Outcome) -> None:
    """Print the result."""
    for name, count in sorted(outcome.done.items()):
        print(f"{count:7} times: {name}")
    for name, count in outcome.kills.items():
        print(f"{count:7} times: kill -9 of {name}")
    print(f"{outcome.repeated:7} calls repeated while a process was away")
    print(f"{outcome.saved:7} times: memory of a paused one saved on disk")
    for text in outcome.findings:
        print(f"WRONG: {text}")


def main() -> int:
    """Start a server, pause and resume on it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=1000, help="pauses with a resume each (default: %(default)s)")
    parser.add_argument("--at-once", type=int, default=4, help="sandboxes at once (default: %(default)s)")
    seed = random.SystemRandom().randrange(1 << 31)
    parser.add_argument("--seed", type=int, default=seed, help="of all random moments (default: a new one)")
    parser.add_argument("--limit-s", type=float, default=3600, help="ends the cycles wherever they are (default: %(default)s)")
    parser.add_argument("--kill-every-s", type=float, default=3.0, help="mean time between two kills, 0 for none (default: %(default)s)")
    parser.add_argument("--checkpoint", help="the server's setting; each pause then lasts up to 6 s, and memory goes to disk after 1 s")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "pauses.json")
    args = parser.parse_args()
    end_orderly()
    longest_pause_s = 6.0 if args.checkpoint else 0.0
    plan, outcome = Plan(args.cycles, args.at_once, args.seed, args.limit_s, args.kill_every_s, longest_pause_s), Outcome()
    options = ("--checkpoint", args.checkpoint, "--paused-to-disk-s", "1") if args.checkpoint else ()
    print(f"seed {plan.seed}", flush=True)
    try:
        with running_server("--log-level", "info" if args.checkpoint else "warning", *options) as server:
            outcome = pauses(server, plan, lambda text: print(text, flush=True))
    except AssertionError as error:  # the server's stop failed: its exit code or its census
        outcome.findings.append(f"after the stop: {error}")
    tell(outcome)
    if outcome.cycles < plan.cycles:
        print(f"{outcome.cycles} of {plan.cycles} cycles were done in the time")
    print(f"{'failed' if outcome.findings else 'nothing is lost or left'}, {clock(outcome.took_s)} minutes, seed {plan.seed}")
    write_results(args.output, vars(outcome), plan=vars(plan))
    return int(bool(outcome.findings))


if __name__ == "__main__":
    sys.exit(main())
