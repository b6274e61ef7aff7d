"""Entry points of the server's processes: launcher, api process, supervisor (node) and the resolver of template builds.

Each module wires the parts of one process and runs it. ``cli`` parses the command line and calls these; no other package imports them.
"""
