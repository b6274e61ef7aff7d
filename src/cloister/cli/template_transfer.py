"""``cloister template pull``: fetches a stock template from another machine over ssh, tree by tree, and only what is missing here.

It runs ``cloister template offer`` and ``cloister template send`` there. Everything that comes from there is checked
(:mod:`cloister.template.transfer`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import IO

from cloister.cli.recording import recorded
from cloister.config.load import add_arguments
from cloister.config.settings import Settings
from cloister.errors import InvalidRequestError, UnavailableError
from cloister.template.bundle.manifest import Part
from cloister.template.layers import LayerStore
from cloister.template.stock import STOCK_NAMES
from cloister.template.transfer.offer import MAX_OFFER_BYTES, digest_of
from cloister.template.transfer.packs import Packs
from cloister.template.transfer.receiving import Readable, pull

__all__ = ["TRANSFERS", "add_transfer_options", "run_transfer"]

TRANSFERS = ("pull", "offer", "send")
_ALL = "all"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def add_transfer_options(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the actions."""
    pulling = actions.add_parser("pull", help="fetch stock templates from another machine over ssh; trees that are here are not fetched")
    pulling.add_argument("name", help=f"template, or all ({', '.join(STOCK_NAMES)}); base brings the agent too")
    pulling.add_argument("--from", dest="source", metavar="[USER@]HOST", required=True, help="a machine that has it")
    pulling.add_argument(
        "--expect-digest", metavar="sha256:HEX", help="refuse any other offer: `cloister template offer --digest` prints it"
    )
    pulling.add_argument("--trust", action="store_true", help="take what the machine offers")
    pulling.add_argument("--ssh", metavar="COMMAND", default="ssh", help="with options, such as 'ssh -p 2222' [ssh]")
    pulling.add_argument("--remote-command", metavar="COMMAND", default="sudo -n cloister", help="there [sudo -n cloister]")
    offering = actions.add_parser("offer", help="print the offer of a template, for `pull` on another machine; archives its trees")
    offering.add_argument("name", help="a stock template, or the id of a build")
    offering.add_argument("--digest", action="store_true", help="print the offer's digest alone")
    sending = actions.add_parser("send", help="write an archive of an offer to the standard output, for `pull` on another machine")
    sending.add_argument("sha256", help="of the archive")
    sending.add_argument("--from-byte", metavar="N", type=int, default=0, help="begin there [0]")
    for action in (pulling, offering, sending):
        add_arguments(action, "store_dir", *(("data_dir",) if action is pulling else ()))


def run_transfer(settings: Settings, args: argparse.Namespace) -> int:
    """Run the action."""
    store = LayerStore(settings.store_dir)
    if args.action == "pull":
        return _pull(settings, store, args)
    if args.action == "offer":
        document = Packs(store).offer(args.name)
        sys.stdout.buffer.write(f"{digest_of(document)}\n".encode() if args.digest else document)
        return 0
    with Packs(store).open(args.sha256) as archive:
        archive.seek(max(0, args.from_byte))
        shutil.copyfileobj(archive, sys.stdout.buffer, 1 << 20)
    return 0


def _pull(settings: Settings, store: LayerStore, args: argparse.Namespace) -> int:
    if not _NAME.fullmatch(args.name):
        raise InvalidRequestError(f"{args.name!r} is no name of a stock template")
    names = STOCK_NAMES if args.name == _ALL else (args.name,)
    if args.expect_digest is None and not args.trust:
        message = "the template would run in the sandboxes of all teams, so it must be one that you know"
        raise InvalidRequestError(message, hint="compare `cloister template offer --digest` there: --expect-digest sha256:HEX; or --trust")
    if args.expect_digest is not None and not _DIGEST.fullmatch(args.expect_digest):
        raise InvalidRequestError("--expect-digest is sha256: and 64 hex digits")
    if args.expect_digest is not None and len(names) > 1:
        raise InvalidRequestError("--expect-digest is for one template", hint="pull them one by one, or use --trust")
    source = _Ssh(args.source, shlex.split(args.ssh), shlex.split(args.remote_command))
    for name in names:
        with recorded(settings, "template.pull", name) as change:
            document = source.offer(name)
            digest = args.expect_digest or digest_of(document)
            change.object_id = f"{name} {digest}"
            new = pull(source, name, store, digest, document, _tell)
        print(f"{name}: pulled, {digest}; {new} trees were new to {settings.store_dir}", flush=True)
    return 0


def _tell(part: Part, offset: int) -> None:
    title = part.layer.name if part.layer is not None else "the agent"
    print(f"{(part.size_bytes - offset) / 2**20:9.1f} MiB  {title}{f', from byte {offset} on' if offset else ''}", flush=True)


class _Ssh:
    """A :class:`~cloister.template.transfer.receiving.Source` on another machine."""

    def __init__(self, target: str, ssh: Sequence[str], command: Sequence[str]) -> None:
        if target.startswith("-"):
            raise InvalidRequestError(f"{target!r} is no name of a machine")
        self._target = target
        self._words = [*ssh, "--", target, *command, "template"]

    def offer(self, name: str) -> bytes:
        with self._run("offer", name) as output:
            return output.read(MAX_OFFER_BYTES + 1)

    @contextlib.contextmanager
    def open(self, sha256: str, offset: int) -> Iterator[Readable]:
        with self._run("send", sha256, "--from-byte", str(offset)) as output:
            yield output

    @contextlib.contextmanager
    def _run(self, *words: str) -> Iterator[IO[bytes]]:
        """The output of the command there, which may break off. Raises: UnavailableError: it failed, and the block did not."""
        try:
            process = subprocess.Popen([*self._words, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        except OSError as error:
            raise InvalidRequestError(f"{self._words[0]}: {os.strerror(error.errno or 0)}") from error
        with process:
            assert process.stdout is not None
            try:
                yield process.stdout
            except BaseException:
                process.kill()
                raise
            if process.stdout.read(1):
                process.kill()
        if process.returncode > 0:
            raise UnavailableError(f"{self._target}: `cloister template {words[0]}` failed with exit code {process.returncode}")
