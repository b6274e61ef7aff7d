"""An MCP server whose sessions each have a sandbox of a Cloister server. A client of that server: shares no code with it."""

__version__ = "0.1.0"
