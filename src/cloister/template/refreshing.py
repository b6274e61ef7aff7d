"""Brings the packages of stock templates up to date, beside running sandboxes: finds stale templates, and builds their next edition.

An edition is one more layer, with the distribution's updates. Layers below stay as they are, and so does each sandbox that stands on the
former edition: its layers are removed when nothing uses them. All layers of all templates are built before the first record changes.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cloister.errors import BuildError
from cloister.model.template import Template
from cloister.template.freshness import Freshness, find_updates
from cloister.template.stock import definition_of, load_stock, with_updates
from cloister.template.stockbuilder import StockBuildContext, build_layers, layer_keys, stock_record

__all__ = ["Refreshed", "check_templates", "refresh_templates"]

_EDITION_DIGITS = 12


@dataclass(frozen=True)
class Refreshed:
    """A template before and after."""

    before: Template
    after: Template


def check_templates(templates: Sequence[Template], context: StockBuildContext, now: float) -> dict[str, Freshness]:
    """The freshness of each template, by name. Blocking. Raises: BuildError: the distribution cannot be asked."""
    return {template.name: find_updates(template, context, now) for template in templates}


def refresh_templates(
    templates: Sequence[Template], found: dict[str, Freshness], context: StockBuildContext, now: float
) -> list[Refreshed]:
    """Build and record the next edition of each stale template. Blocking. Raises: BuildError; no record has changed then."""
    refreshed = []
    for template in templates:
        freshness = found[template.name]
        if not freshness.is_stale:
            continue
        edition = _edition(template, freshness)
        definition = with_updates(load_stock(template.name), edition)
        below = _below(template, has_parent=definition.parent is not None)
        after = stock_record(definition, build_layers(definition, below, context), edition)
        refreshed.append(Refreshed(template, dataclasses.replace(after, created_at=now)))
    for one in refreshed:
        context.store.write_template(one.after)
    return refreshed


def _below(template: Template, *, has_parent: bool) -> tuple[str, ...]:
    """The layers of the parent, on which the template stands now. Raises: BuildError: another release built it."""
    own = len(definition_of(template).steps)
    below = template.layers[:-own] if has_parent else ()
    if template.layers != layer_keys(definition_of(template), below):
        hint = f"run: cloister template build {template.name}"
        raise BuildError(f"template '{template.name}' is of another version", step="check", hint=hint)
    return below


def _edition(template: Template, freshness: Freshness) -> str:
    """The same for the same updates, so that a refresh that was interrupted goes on with its finished layers."""
    text = "\n".join((template.edition, *freshness.packages))
    return hashlib.sha256(text.encode()).hexdigest()[:_EDITION_DIGITS]
