"""The program ``mcp-gateway`` of the template of that name: MCP servers of a sandbox behind one address.

It is no part of the server: it is copied into the template and runs there, with libraries of its own (docs/decisions/0510-mcp-gateway.md).
"""
