"""Claude Code inside a sandbox: it edits files there and nowhere else, whatever it is told to do.

    pip install e2b
    python claude_code.py                            # against the stub of Anthropic's API in stub_api.mjs, which plays a script
    ANTHROPIC_API_KEY=... python claude_code.py      # the same with the real one

The first run builds the template `claude-code-example`, which installs Claude Code from npm.
"""

import json
import os
from pathlib import Path

from e2b import Sandbox, Template

TASK = "Write /home/user/hello.py, which prints a greeting, run it, and tell me what it printed."
STUB = Path(__file__).with_name("stub_api.mjs").read_text()

# The program for this platform alone: by "@anthropic-ai/claude-code" Debian's npm would fetch 175 MB more, the one for musl.
PACKAGE = "@anthropic-ai/claude-code-linux-x64"
install = f"npm install -g --no-audit --no-fund --fetch-retries=5 --cache=/tmp/npm {PACKAGE}@2.1.332"
commands = [
    f"{install} || {install}",  # a download that was broken off is begun again
    f"ln -s /usr/local/lib/node_modules/{PACKAGE}/claude /usr/local/bin/claude && rm -rf /tmp/npm",
]
template = Template().from_template("base").set_user("root").run_cmd(" && ".join(f"({one})" for one in commands)).set_user("user")
Template.build(template, "claude-code-example", cpu_count=2, memory_mb=2048)

key = os.environ.get("ANTHROPIC_API_KEY")
settings = {"ANTHROPIC_API_KEY": key} if key else {"ANTHROPIC_API_KEY": "stub", "ANTHROPIC_BASE_URL": "http://127.0.0.1:8080"}
envs = {**settings, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1"}
with Sandbox.create("claude-code-example", timeout=600, envs=envs) as sandbox:
    if not key:
        sandbox.files.write("stub_api.mjs", STUB)
        sandbox.commands.run("node stub_api.mjs > stub.log 2>&1", background=True, timeout=0)  # it has no time limit
        sandbox.commands.run("curl -s --retry 20 --retry-connrefused --retry-delay 1 http://127.0.0.1:8080/ready")

    command = f"claude --print --output-format stream-json --verbose --dangerously-skip-permissions {json.dumps(TASK)}"
    run = sandbox.commands.run(f"{command} < /dev/null", timeout=300)
    for line in run.stdout.splitlines():
        event = json.loads(line)
        for block in event.get("message", {}).get("content", []):
            if block["type"] == "tool_use":
                print(f"{block['name']}: {json.dumps(block['input'])}")
            if block["type"] == "tool_result":
                print(f"  -> {block['content']}")
        if event["type"] == "result":
            print("answer:", event["result"])
    print("file:", sandbox.files.read("/home/user/hello.py").strip())
