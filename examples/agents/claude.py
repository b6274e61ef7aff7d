"""Claude Code in a sandbox: it writes a program and runs it, with all rights there and none here.

    cloister template build claude     # once, by who runs the server
    export ANTHROPIC_API_KEY=...
"""

import os
import shlex
import sys

from e2b import Sandbox

task = " ".join(sys.argv[1:]) or "Write fizzbuzz.py, run it for the numbers up to 15, and show its output."
with Sandbox.create("claude", envs={"ANTHROPIC_API_KEY": os.environ["ANTHROPIC_API_KEY"]}, timeout=900) as sandbox:
    command = "claude --dangerously-skip-permissions -p " + shlex.quote(task)
    sandbox.commands.run(command, on_stdout=print, on_stderr=print, timeout=800)
    for entry in sandbox.files.list("/home/user"):
        print("left:", entry.path)
