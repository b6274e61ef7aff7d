"""How the packages of stock templates compare with their distribution: a record in the store, which a check writes.

Owns ``<store>/freshness.json``. A check simulates an upgrade with the template's own apt in a sandbox, so mirrors, proxies and the
archive's signatures are those of builds, and no program of a template runs on the host.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cloister.errors import BuildError
from cloister.linux.files import write_whole
from cloister.model.network import PUBLIC_EGRESS
from cloister.model.template import Template
from cloister.runtime.spec import StepSpec
from cloister.template.stockbuilder import STEP_ENVS, StockBuildContext

__all__ = ["Freshness", "find_updates", "read_freshness", "write_freshness"]

_FILE = "freshness.json"
_TIMEOUT_S = 600.0
_MOST_PACKAGES = 5000
_MOST_TAIL = 2000
_CHECK = "set -eu; apt-get -q -o Acquire::Retries=2 --error-on=any update >&2; exec apt-get -q -s dist-upgrade"
_UPDATE = re.compile(rb"Inst ([a-z0-9][a-z0-9+.:-]{0,200}) (?:\[([^\] ]{1,200})\] )?\(([^ )]{1,200}) ([^)\[]{0,300})")
"""A line of a simulation, such as ``Inst libc6 [2.41-1] (2.41-2 Debian-Security:13/stable-security [amd64])``. Source: apt-get(8)."""


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """The outcome of the latest check of a template. ``build_id``: of the template that was checked."""

    build_id: str
    checked_at: float
    """Epoch seconds."""
    packages: tuple[str, ...] = field(default=())
    """Those with an update: name, present version and new one, with spaces between."""
    security: int = 0
    """How many of them are in the distribution's security archive."""

    @property
    def is_stale(self) -> bool:
        """Whether the distribution has newer packages."""
        return bool(self.packages)


def find_updates(template: Template, context: StockBuildContext, now: float) -> Freshness:
    """Ask the distribution for updates of the template's packages. Blocking; needs the network. Raises: BuildError: it cannot be asked."""
    output = bytearray()

    def take(chunk: bytes) -> None:
        if len(output) < 64 << 20:
            output.extend(chunk)

    with context.store.workspace(f"check-{template.name}") as workspace:
        host = context.host_layer
        spec = StepSpec(
            layers=tuple(context.store.rootfs(key) for key in template.layers),
            host_layer=None if host is None else host.path,
            upper=workspace.upper,
            work=workspace.work,
            argv=("/bin/bash", "-c", _CHECK),
            envs={**STEP_ENVS, **({} if host is None else host.envs)},
            egress=PUBLIC_EGRESS,
            limits=context.limits,
            timeout_s=_TIMEOUT_S,
            name="check",
        )
        code = context.run_step(spec, take)
    if code != 0:
        tail = bytes(output[-_MOST_TAIL:]).decode(errors="replace")
        raise BuildError(f"the distribution of '{template.name}' cannot be asked for updates", step="check", log_tail=tail)
    found = _UPDATE.findall(bytes(output))[:_MOST_PACKAGES]
    packages = tuple(sorted({b" ".join((name, old or b"-", new)).decode() for name, old, new, _ in found}))
    return Freshness(
        build_id=template.build_id,
        checked_at=now,
        packages=packages,
        security=len({name for name, _, _, archive in found if b"ecurity" in archive}),
    )


def read_freshness(store_root: Path, templates: list[Template], tell: Callable[[str], None] | None = None) -> dict[str, Freshness]:
    """The latest check of each of these templates that was checked as it is now, by name. A damaged record counts as none."""
    try:
        data = json.loads((store_root / _FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        if tell is not None:
            tell(str(error))
        return {}
    found = {}
    for template in templates:
        with suppress(KeyError, TypeError, AttributeError):
            one = _from_json(data[template.name])
            if one.build_id == template.build_id:
                found[template.name] = one
    return found


def write_freshness(store_root: Path, found: dict[str, Freshness]) -> None:
    """Replace the record. Raises: OSError."""
    write_whole(store_root / _FILE, json.dumps({name: asdict(one) for name, one in found.items()}, indent=1) + "\n")


def _from_json(data: dict[str, Any]) -> Freshness:
    return Freshness(
        build_id=str(data["build_id"]),
        checked_at=float(data["checked_at"]),
        packages=tuple(map(str, data["packages"])),
        security=int(data["security"]),
    )
