"""The agent: what runs inside a sandbox, serving the envd-compatible and the code-interpreter API."""
