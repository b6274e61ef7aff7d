"""Downloads the packages of the stock templates' first layer, beside other work: ``python3 -m cloister.template.prefetch FILE.tgz``.

``scripts/quickstart`` runs it while pip installs the server, so this module and what it imports need the standard library alone.
``cloister template build --packages FILE.tgz`` takes the file. debootstrap checks the archive's signature here, and not again there: the
file must be where only root can write.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from cloister.template.bootstrap import fetch, host_bootstrap
from cloister.template.stock import load_stock

__all__: list[str] = []


def _main(file: str) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that debootstrap ends too
    fetch(Path(file).absolute(), load_stock("base").steps[0], host_bootstrap(), _show)


def _show(chunk: bytes) -> None:
    sys.stdout.buffer.write(chunk)
    sys.stdout.flush()


if __name__ == "__main__":
    _main(sys.argv[1])
