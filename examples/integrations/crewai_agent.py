"""CrewAI: an agent with the tools of ``crewai-tools``, which run code and commands and move files in one sandbox.

    pip install 'crewai-tools[e2b]'                              # the agent plays a script
    pip install 'crewai-tools[e2b]'; export OPENAI_API_KEY=...   # the same with a real model

``E2BPythonTool`` needs a server with a domain and TLS: the SDK that CrewAI pins finds the code interpreter by no other way.
"""

import json
import os

from crewai import LLM, Agent, BaseLLM
from crewai_tools import E2BExecTool, E2BFileTool, E2BPythonTool
from e2b_code_interpreter import Sandbox

TASK = "Sum up the column of /home/user/sales.csv, which you write first, with a shell command and again in Python."


def act(tool, **args):
    return f"Thought: the next step\nAction: {tool}\nAction Input: {json.dumps(args)}"


SCRIPT = [
    act("e2b_sandbox_files", action="write", path="/home/user/sales.csv", content="amount\n20\n22\n58\n"),
    act("e2b_sandbox_files", action="list", path="/home/user"),
    act("e2b_sandbox_exec", command="awk 'NR > 1 { sum += $1 } END { print \"awk says\", sum }' sales.csv"),
    act("e2b_sandbox_python", code="import csv\nrows = list(csv.DictReader(open('/home/user/sales.csv')))\nprint('rows', len(rows))\nsum(int(row['amount']) for row in rows)"),
    act("e2b_sandbox_python", code="rows[3]"),
    act("e2b_sandbox_files", action="read", path="/home/user/sales.csv"),
    "Thought: I know the answer\nFinal Answer: Both sums are 100.",
]


class ScriptedModel(BaseLLM):
    """Says the script's lines, one a turn."""

    said: int = 0

    def call(self, messages, *args, **options):
        self.said += 1
        return SCRIPT[self.said - 1]

    def supports_function_calling(self):
        return False


sandbox = Sandbox.create(timeout=300)
try:
    tools = [tool(sandbox_id=sandbox.sandbox_id) for tool in (E2BFileTool, E2BExecTool, E2BPythonTool)]
    model = LLM(model="openai/gpt-5-mini") if os.environ.get("OPENAI_API_KEY") else ScriptedModel(model="script")
    agent = Agent(role="analyst", goal="Answer with numbers that programs found", backstory="You have a sandbox.", tools=tools, llm=model)
    answer = agent.kickoff(TASK)
    for message in answer.messages[1:]:
        print(f"{message['role']}: {message['content']}")
    print("answer:", answer.raw)
finally:
    sandbox.kill()
print("a sandbox for one call:", E2BExecTool().run(command="id -un"))
