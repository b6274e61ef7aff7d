"""Rewards for reinforcement learning: 64 sandboxes at once, each of which runs a candidate program against hidden tests.

    pip install e2b-code-interpreter
    python rewards.py            # candidates from a list; put your policy's samples in its place

A reward is the share of the tests that pass. Each candidate has a sandbox of its own, since it may do anything: change the tests, never end,
or fill the memory. 64 sandboxes need a quota that allows them: `max_sandboxes_per_team` of the server, and memory for 64.
"""

import asyncio
import json
import time

from e2b_code_interpreter import AsyncSandbox

TESTS = [([3, 1, 2], [1, 2, 3]), ([], []), ([1], [1]), ([2, 2, 1], [1, 2, 2])]
"""Input of a program and the expected answer."""
CANDIDATES = [
    "def solve(items): return sorted(items)",
    "def solve(items): return items",
    "def solve(items): return list(dict.fromkeys(sorted(items)))",
    "def solve(items):\n    while True: pass",
    "def solve(items): return [][0]",
    "import sys; sys.exit(0)",
    "def solve(items) return items",
    "print([1, 2, 3])\ndef solve(items): return items",
]
"""Right, and wrong in seven ways."""
SAMPLES = 64
DRIVER = """
import json, sys
from candidate import solve
for given in json.loads(sys.argv[1]):
    print(json.dumps(solve(given)), flush=True)
"""


CREATIONS = asyncio.Semaphore(8)
"""So many creations at a time: none waits long enough to time out, also on a small server."""


async def begin() -> AsyncSandbox:
    async with CREATIONS:
        return await AsyncSandbox.create("base", timeout=300, allow_internet_access=False)


async def reward(sandbox: AsyncSandbox, program: str) -> float:
    """The share of the tests that ``program`` passes. Its answers are judged here: what they must be is not in the sandbox."""
    await sandbox.files.write_files([{"path": "candidate.py", "data": program}, {"path": "driver.py", "data": DRIVER}])
    given = json.dumps([given for given, _ in TESTS])
    run = await sandbox.commands.run(f"ulimit -t 2; timeout 100 python3 driver.py '{given}' || true", timeout=120)  # 2 s of processor time
    answers = run.stdout.splitlines()
    return sum(answer == json.dumps(wanted) for answer, (_, wanted) in zip(answers, TESTS)) / len(TESTS)


async def main():
    began = time.monotonic()
    sandboxes = await asyncio.gather(*(begin() for _ in range(SAMPLES)))
    print(f"{len(sandboxes)} sandboxes in {time.monotonic() - began:.1f} s")
    try:
        rewards = await asyncio.gather(*(reward(sandbox, CANDIDATES[n % len(CANDIDATES)]) for n, sandbox in enumerate(sandboxes)))
    finally:
        await asyncio.gather(*(sandbox.kill() for sandbox in sandboxes))
    for number, program in enumerate(CANDIDATES):
        print(sorted(set(rewards[number :: len(CANDIDATES)])), repr(program[:60]))
    print(f"{len(rewards)} rewards in {time.monotonic() - began:.1f} s")


asyncio.run(main())
