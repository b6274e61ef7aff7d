"""A sandbox that pauses at the end of its time instead of dying, and that requests wake again; with the asynchronous SDK."""

import asyncio

from e2b import AsyncSandbox, SandboxQuery, SandboxState


async def main():
    lifecycle = {"on_timeout": "pause", "auto_resume": True}
    sandbox = await AsyncSandbox.create("base", timeout=1, lifecycle=lifecycle, metadata={"owner": "ada"})
    try:
        query = SandboxQuery(metadata={"owner": "ada"}, state=[SandboxState.PAUSED])
        while sandbox.sandbox_id not in [one.sandbox_id for one in await AsyncSandbox.list(query=query).next_items()]:
            await asyncio.sleep(0.1)
        print("after its time: paused")

        answers = await asyncio.gather(*(sandbox.commands.run(f"echo {number}") for number in range(3)))
        print("woken by three commands:", "".join(answer.stdout.strip() for answer in answers))
        info = await sandbox.get_info()
        print("state:", info.state.value)
        print("awake for:", round((info.end_at - info.started_at).total_seconds()), "seconds")
    finally:
        await sandbox.kill()


asyncio.run(main())
