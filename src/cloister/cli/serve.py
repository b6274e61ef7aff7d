"""``cloister serve``: runs the server in the foreground. The work is in ``cloister.processes.launcher``."""

from __future__ import annotations

import argparse
import os
import sys

from cloister.config.load import add_arguments, ignored_endpoint, load
from cloister.errors import PermissionDeniedError
from cloister.processes.launcher import serve
from cloister.processes.preflight import find_host_faults, refuse_weak_code

__all__ = ["add_options", "run"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes. Raises: PermissionDeniedError without root, SettingsError."""
    if os.geteuid() != 0:
        load(args, os.environ)  # a wrong setting is reported before the missing privilege
        why = "it makes namespaces, mounts and control groups"
        raise PermissionDeniedError(f"cloister {args.command} needs root: {why}", hint="run it with sudo")
    settings = load(args, os.environ, find_host_faults)
    refuse_weak_code(os.environ)
    if (endpoint := ignored_endpoint(os.environ)) is not None and settings.otlp_endpoint is None:
        print(f"cloister: no traces: OTEL_EXPORTER_OTLP_ENDPOINT is {endpoint!r}, not a URL such as http://127.0.0.1:4318", file=sys.stderr)
    return serve(settings)
