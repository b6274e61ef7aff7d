"""Codex in a sandbox: it writes a program and runs it, with all rights there and none here.

    cloister template build codex     # once, by who runs the server
    export OPENAI_API_KEY=...
"""

import os
import shlex
import sys

from e2b import Sandbox

task = " ".join(sys.argv[1:]) or "Write fizzbuzz.py, run it for the numbers up to 15, and show its output."
with Sandbox.create("codex", envs={"CODEX_API_KEY": os.environ["OPENAI_API_KEY"]}, timeout=900) as sandbox:
    command = "codex exec --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox " + shlex.quote(task)
    sandbox.commands.run(command, on_stdout=print, on_stderr=print, timeout=800)
    for entry in sandbox.files.list("/home/user"):
        print("left:", entry.path)
