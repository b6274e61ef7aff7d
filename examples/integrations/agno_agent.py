"""Agno: an agent with ``E2BTools``, which run code and commands and move files in a sandbox.

    pip install agno e2b-code-interpreter                              # the agent plays a script
    pip install agno e2b-code-interpreter openai; export OPENAI_API_KEY=...   # the same with a real model
"""

import json
import os

from agno.agent import Agent
from agno.models.base import Model
from agno.models.response import ModelResponse
from agno.tools.e2b import E2BTools

TASK = "Plot the squares of 0 to 9 and save the picture as squares.png; then list the sandbox's directory /home/user."


def call(number, name, **args):
    return {"id": str(number), "type": "function", "function": {"name": name, "arguments": json.dumps(args)}}


SCRIPT = [
    ModelResponse(tool_calls=[call(1, "run_python_code", code="import matplotlib.pyplot as plt\nplt.plot([n * n for n in range(10)])\nplt.show()")]),
    ModelResponse(tool_calls=[call(2, "download_png_result", result_index=0, output_path="squares.png")]),
    ModelResponse(tool_calls=[call(3, "write_file_content", file_path="/home/user/note.txt", content="squares"), call(4, "list_files", directory_path="/home/user")]),
    ModelResponse(tool_calls=[call(5, "run_command", command="cat note.txt && nproc")]),
    ModelResponse(content="The plot is in squares.png."),
]


class ScriptedModel(Model):
    """Says the script's lines, one a turn."""

    def invoke(self, messages, assistant_message, **options):
        return self._parse_provider_response(SCRIPT[sum(message.role == "assistant" for message in messages)])

    def _parse_provider_response(self, response, **options):
        response.role = "assistant"
        return response

    ainvoke = invoke_stream = ainvoke_stream = _parse_provider_response_delta = None


def real_model():
    from agno.models.openai import OpenAIChat

    return OpenAIChat(id="gpt-5-mini")


tools = E2BTools(timeout=300)
try:
    agent = Agent(model=real_model() if os.environ.get("OPENAI_API_KEY") else ScriptedModel(id="script"), tools=[tools])
    answer = agent.run(TASK)
    for used in answer.tools:
        print(f"{used.tool_name}: {used.result}")
    print("answer:", answer.content)
finally:
    tools.shutdown_sandbox()
