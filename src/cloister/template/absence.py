"""The progress of a build of a stock template that is not there yet, for people. Reads the store; runs no build."""

from __future__ import annotations

from cloister.errors import TemplateNotFoundError
from cloister.template.layers import LayerStore
from cloister.template.stock import load_stock, shared_layers, with_parents, with_updates
from cloister.template.stockbuilder import layer_keys

__all__ = ["told_absence"]


def told_absence(store: LayerStore, name: str) -> str:
    """``being built: step 7 of 10, scientific Python packages``; empty if no build with a node of its own makes the template.

    The step is the first one whose layer is not there, of the template and those it stands on.
    """
    if name not in store.wanted_by_builds():
        return ""
    titles: list[str] = []
    missing: list[int] = []
    below: tuple[str, ...] = ()
    for one in with_parents(name):
        definition = with_updates(load_stock(one), _edition(store, one))
        keys = layer_keys(definition, below)
        for step, key in zip(definition.steps, keys[len(below) :], strict=True):
            titles.append(step.title)
            if not store.has(key):
                missing.append(len(titles))
        below = shared_layers(definition, keys)
    if not missing:
        return "being built: the last step is done"
    return f"being built: step {missing[0]} of {len(titles)}, {titles[missing[0] - 1]}"


def _edition(store: LayerStore, name: str) -> str:
    try:
        return store.template(name).edition
    except TemplateNotFoundError:
        return ""
