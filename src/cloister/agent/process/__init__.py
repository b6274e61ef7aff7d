"""Processes and terminals of a sandbox: the service ``process.Process`` of the envd-compatible API."""
