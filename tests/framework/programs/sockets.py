"""WebSocket server of the ingress's tests, by the ``websockets`` library, on the sandbox's loopback: echoes, and closes with a code."""

import asyncio

from websockets.asyncio.server import ServerConnection, serve


async def answer(connection: ServerConnection) -> None:
    """Send everything back; ``close`` closes."""
    async for message in connection:
        if message == "close":
            await connection.close(4321, "because")
        await connection.send(message)


async def main() -> None:
    """Serve on 8004."""
    async with serve(answer, "127.0.0.1", 8004, max_size=None, subprotocols=["chat"]) as server:  # type: ignore[list-item]  # a plain string will do
        await server.serve_forever()


asyncio.run(main())
