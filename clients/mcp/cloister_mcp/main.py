"""The ``cloister-mcp`` command; ``cloister mcp`` runs it with the variables of the local server."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

from cloister_mcp import options

__all__ = ["main"]

PROGRAM_VARIABLE = "CLOISTER_MCP_PROG"
_NO_SERVER = """\
{prog}: no server: set E2B_API_URL and E2B_API_KEY (on the server's machine, `cloister env` prints them).
    A configuration of an MCP client has a place for them: "env"."""


def main(words: Sequence[str] | None = None) -> int:
    """Serve; the exit code."""
    prog = os.environ.pop(PROGRAM_VARIABLE, "cloister-mcp")
    sandbox, http = options.parse(sys.argv[1:] if words is None else words, prog)
    if not os.environ.get("E2B_API_KEY") or not (os.environ.get("E2B_API_URL") or os.environ.get("E2B_DOMAIN")):
        print(_NO_SERVER.format(prog=prog), file=sys.stderr)
        return 2
    if "E2B_API_URL" in os.environ and "E2B_DOMAIN" not in os.environ:
        os.environ.setdefault("E2B_SANDBOX_URL", os.environ["E2B_API_URL"])
    logging.getLogger("mcp").setLevel(logging.WARNING)
    from cloister_mcp import server, web  # noqa: PLC0415 - a second of imports, which --help does not need

    try:
        if http is not None:
            return web.serve(server.for_many(sandbox), http)
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # asyncio ends in order on that
        server.for_one(sandbox).run("stdio")
    except (OSError, ValueError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
