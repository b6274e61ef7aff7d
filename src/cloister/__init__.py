"""Cloister: a self-hosted, E2B-compatible sandbox server."""

__version__ = "0.1.0"
