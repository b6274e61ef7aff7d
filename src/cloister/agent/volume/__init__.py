"""Serves the content of one volume, from inside a sandbox of its own that holds nothing else. No code of a client runs there."""
