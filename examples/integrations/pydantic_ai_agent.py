"""Pydantic AI: an agent whose one tool runs Python in a sandbox that lives as long as the conversation.

    pip install pydantic-ai-slim e2b-code-interpreter                              # the agent plays a script
    pip install 'pydantic-ai-slim[openai]' e2b-code-interpreter; export OPENAI_API_KEY=...   # the same with a real model
"""

import asyncio
import os

from e2b_code_interpreter import AsyncSandbox
from pydantic_ai import Agent, ModelResponse, RunContext, TextPart, ToolCallPart
from pydantic_ai.models.function import FunctionModel

TASK = "How many primes are there below 10,000? And below 20,000?"
SIEVE = "sieve = lambda n: [p for p in range(2, n) if all(p % q for q in range(2, int(p**.5) + 1))]\nlen(sieve(10_000))"
SCRIPT = [
    ToolCallPart("run_python", {"code": SIEVE}),
    ToolCallPart("run_python", {"code": "undefined_name"}),
    ToolCallPart("run_python", {"code": "len(sieve(20_000))"}),
    TextPart("1229 and 2262."),
]
model = "openai:gpt-5-mini" if os.environ.get("OPENAI_API_KEY") else FunctionModel(
    lambda messages, info: ModelResponse([SCRIPT[sum(isinstance(message, ModelResponse) for message in messages)]])
)
agent = Agent(model, deps_type=AsyncSandbox, instructions="Use run_python; its variables are kept between calls.")


@agent.tool
async def run_python(context: RunContext[AsyncSandbox], code: str) -> str:
    """Run Python; get what it prints and its last value, or the traceback."""
    run = await context.deps.run_code(code)
    print(f"ran {code!r}: {run.error.name if run.error else run.text}")
    return run.error.traceback if run.error else "".join(run.logs.stdout) + (run.text or "")


async def main():
    async with await AsyncSandbox.create(timeout=300) as sandbox:
        print("answer:", (await agent.run(TASK, deps=sandbox)).output)


asyncio.run(main())
