"""``cloister template refresh``: asks the distribution for updates of the stock templates, and builds the stale ones again.

Running sandboxes go on; later ones start from the new edition. Exit codes: 0 up to date, or brought up to date; 1 a template is stale
(``--check``), or the distribution cannot be reached and nothing was changed.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict

from cloister.cli.recording import recorded
from cloister.config.settings import Settings
from cloister.errors import BuildError, TemplateNotFoundError
from cloister.model.template import ON_DEMAND, Template
from cloister.template.freshness import Freshness, read_freshness, write_freshness
from cloister.template.layers import LayerStore
from cloister.template.refreshing import check_templates, refresh_templates
from cloister.template.stock import STOCK_NAMES
from cloister.template.stockbuilder import StockBuildContext

__all__ = ["built_templates", "refresh", "told_freshness"]

_OFFLINE = (
    "templates stay as they are. Without internet access, name a mirror in the host's apt configuration, or import a newer bundle "
    "(docs/howto/bundles.md); `systemctl disable --now cloister-refresh.timer` ends the attempts"
)


def built_templates(store: LayerStore, name: str) -> list[Template]:
    """The built stock templates that a word of the command line names, parents first. Raises: TemplateNotFoundError: there is none."""
    names = (*STOCK_NAMES, *ON_DEMAND) if name == "all" else (name,)
    known = {template.name: template for template in store.templates()}
    found = [known[one] for one in names if one in known]
    if not found:
        raise TemplateNotFoundError(f"{'no template' if name == 'all' else name} is built", hint="run: cloister template build")
    return found


def refresh(settings: Settings, context: StockBuildContext, name: str, *, only_check: bool, as_json: bool) -> int:
    """Check, and unless ``only_check`` build; returns the exit code. Raises: BuildError."""
    store, now = context.store, time.time()
    templates = built_templates(store, name)
    try:
        found = check_templates(templates, context, now)
    except BuildError as error:
        raise BuildError(error.message, step=error.step, log_tail=error.log_tail, hint=_OFFLINE) from error
    _keep(store, found)
    if not only_check and any(one.is_stale for one in found.values()):
        with recorded(settings, "template.refresh", name):
            done = refresh_templates(templates, found, context, now)
        found |= {one.after.name: Freshness(build_id=one.after.build_id, checked_at=now) for one in done}
        _keep(store, found)
        templates = built_templates(store, name)
    if as_json:
        print(json.dumps({one: {**asdict(found[one]), "stale": found[one].is_stale} for one in found}, indent=1))
    else:
        print("\n".join(f"{template.name:24}{told_freshness(found[template.name], now)}" for template in templates))
    return int(only_check and any(one.is_stale for one in found.values()))


def _keep(store: LayerStore, found: dict[str, Freshness]) -> None:
    write_freshness(store.root, {**read_freshness(store.root, store.templates()), **found})


def told_freshness(freshness: Freshness | None, now: float) -> str:
    """For people: ``up to date`` or ``stale``, and since when that is known."""
    if freshness is None:
        return "never checked for updates"
    age_h = max(0.0, now - freshness.checked_at) / 3600
    checked = f"checked {age_h:.0f} h ago" if age_h < 72 else f"checked {age_h / 24:.0f} days ago"
    if not freshness.is_stale:
        return f"up to date, {checked}"
    return f"stale: {len(freshness.packages)} packages have updates, {freshness.security} of them for security; {checked}"

