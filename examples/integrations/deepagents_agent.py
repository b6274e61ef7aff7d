"""Deep Agents with langchain-e2b: the agent's files and its shell are those of a sandbox.

    pip install langchain-e2b                                          # the agent plays a script
    pip install langchain-e2b; export ANTHROPIC_API_KEY=...            # the same with a real model
"""

import os

from deepagents import create_deep_agent
from e2b import Sandbox
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_e2b import E2BSandbox

TASK = "Write a shell script that prints the three largest files of /etc, run it, and tell me which file is the largest."
PROGRAM = "find /etc -type f -printf '%s %p\\n' 2>/dev/null | sort -rn | head -3\n"


def call(number, name, **args):
    return AIMessage("", tool_calls=[{"id": str(number), "name": name, "args": args}])


SCRIPT = [
    call(1, "write_file", file_path="/home/user/largest.sh", content=PROGRAM),
    call(2, "edit_file", file_path="/home/user/largest.sh", old_string="head -3", new_string="head -n 3"),
    call(3, "grep", pattern="head", path="/home/user"),
    call(4, "execute", command="sh /home/user/largest.sh"),
    AIMessage("The script ran; its first line names the largest file."),
]


class ScriptedModel(GenericFakeChatModel):
    """Says the script's lines, one a turn."""

    def bind_tools(self, tools, **options):
        return self


model = "anthropic:claude-sonnet-4-5" if os.environ.get("ANTHROPIC_API_KEY") else ScriptedModel(messages=iter(SCRIPT))
sandbox = Sandbox.create(timeout=300)
try:
    agent = create_deep_agent(model=model, backend=E2BSandbox(sandbox=sandbox))
    for message in agent.invoke({"messages": [{"role": "user", "content": TASK}]})["messages"]:
        print(f"{message.type}: {message.text}")
finally:
    sandbox.kill()
