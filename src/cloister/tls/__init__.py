"""Certificates: those of the TLS listener, from files or a local authority, and those that sandboxes trust."""
