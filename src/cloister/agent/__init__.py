"""The agent: the daemon inside a sandbox, which serves the envd-compatible and the code-interpreter API."""
