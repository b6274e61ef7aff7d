"""openai-agents: a sandbox agent whose sandbox is paused between two turns, and found again with its files and its processes.

    pip install 'openai-agents[e2b]'                                    # the agent plays a script
    pip install 'openai-agents[e2b]'; export OPENAI_API_KEY=...         # the same with a real model
"""

import asyncio
import json
import os

from agents import RunConfig, Runner, set_tracing_disabled
from agents.extensions.sandbox.e2b import E2BSandboxClient, E2BSandboxClientOptions
from agents.sandbox import SandboxAgent, SandboxRunConfig
from agents.testing import ScriptedModel, assistant_message, function_call
from e2b import AsyncSandbox

TURNS = [
    "Start a counter in the background that adds a line to counter.txt four times a second.",
    "Does the counter still run? How many lines has it written?",
]
SCRIPTS = [
    [
        ("start", "echo 'while sleep 0.25; do echo tick >> counter.txt; done' > counter.sh; setsid bash counter.sh > /dev/null 2>&1 & sleep 1"),
        "It counts.",
    ],
    [("look", "pgrep -f counter.sh > /dev/null && echo it still runs; test -s counter.txt && echo it has written"), "It does."],
]


def model(script):
    """The model of one turn."""
    if os.environ.get("OPENAI_API_KEY"):
        return "gpt-5-mini"
    return ScriptedModel(
        [[assistant_message(step)] if isinstance(step, str) else [function_call("exec_command", {"cmd": step[1]}, call_id=step[0])] for step in script]
    )


async def turn(session, task, script):
    """One turn of the conversation; at the end of the block the framework pauses the sandbox."""
    async with session:
        agent = SandboxAgent("counter", instructions="Use the shell.", model=model(script))
        result = await Runner.run(agent, task, run_config=RunConfig(sandbox=SandboxRunConfig(session=session)))
    for item in result.new_items:
        if item.type == "tool_call_output_item":
            print("the shell said:", str(item.output).partition("Output:")[2].strip())
    print("answer:", result.final_output)


async def main():
    if not os.environ.get("OPENAI_API_KEY"):
        set_tracing_disabled(True)
    client = E2BSandboxClient()
    options = E2BSandboxClientOptions(sandbox_type="e2b", template="base", timeout=300, pause_on_exit=True)
    session = await client.create(options=options)
    sandbox_id = session.state.sandbox_id
    try:
        await turn(session, TURNS[0], SCRIPTS[0])
        saved = json.dumps(client.serialize_session_state(session.state))  # to a database, until the user is back
        print("between the turns:", (await AsyncSandbox.get_info(sandbox_id)).state.value)

        session = await client.resume(client.deserialize_session_state(json.loads(saved)))
        await turn(session, TURNS[1], SCRIPTS[1])
        print("the same sandbox:", "yes" if session.state.sandbox_id == sandbox_id else "no")
    finally:
        await AsyncSandbox.kill(sandbox_id)


asyncio.run(main())
