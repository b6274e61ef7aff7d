"""A client of the HTTP API, for the commands that use sandboxes: it knows the published API alone, and runs with no right of the server."""
