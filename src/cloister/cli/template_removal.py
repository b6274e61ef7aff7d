"""``cloister template rm``: deletes a team's template through the API, or takes a stock template out of the store.

A stock template that something stands on is refused by name, with what uses it. Its layers stay until ``cloister template gc``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

from cloister.cli.endpoint import find_server, run_client
from cloister.cli.recording import recorded
from cloister.client.api import connect
from cloister.config.client_env import ClientEnv
from cloister.config.load import load
from cloister.config.settings import Settings
from cloister.errors import ConflictError, PermissionDeniedError, TemplateNotFoundError
from cloister.model.template import ON_DEMAND, Template
from cloister.node.trees_in_use import trees_in_use
from cloister.template.layers import LayerStore
from cloister.template.stock import STOCK_NAMES, definition_of, load_stock, shared_layers

__all__ = ["remove_stock", "remove_templates"]

_STOCK = frozenset((*STOCK_NAMES, *ON_DEMAND))


def remove_templates(args: argparse.Namespace) -> int:
    """Remove each template that ``args.names`` names; the first that cannot be removed ends it."""
    settings = load(args, os.environ)
    stock = [name for name in args.names if name in _STOCK]
    if stock and os.geteuid() != 0:
        raise PermissionDeniedError(f"{stock[0]} is a template of the server, which belongs to root", hint="run it with sudo")
    for name in stock:
        with recorded(settings, "template.delete", name):
            remove_stock(settings, name)
        print(name)
    others = [name for name in args.names if name not in _STOCK]
    return run_client(_delete(find_server(args), others)) if others else 0


def remove_stock(settings: Settings, name: str) -> None:
    """Forget a stock template. Raises: TemplateNotFoundError: it is not built. ConflictError: it is in use."""
    store = LayerStore(settings.store_dir)
    template = next((one for one in store.records() if one.name == name), None)
    if template is None:
        raise TemplateNotFoundError(f"template '{name}' is not built, so there is nothing to remove")
    users = list(_users(settings, store, template))
    if users:
        shown = ", ".join(users[:5]) + (f" and {len(users) - 5} more" if users[5:] else "")
        raise ConflictError(f"template '{name}' is in use by {shown}", hint="remove these first")
    store.drop_template(name)


def _users(settings: Settings, store: LayerStore, template: Template) -> Iterator[str]:
    """Templates that stand on layers of ``template``, and sandboxes that run on them."""
    below = set(shared_layers(definition_of(template), template.layers))
    stock = [one.name for one in store.records() if one.name in _STOCK]
    yield from (f"the template {name}" for name in stock if load_stock(name).parent == template.name)
    yield from (f"the template {one.name} of a team" for one in store.builds() if below <= set(one.layers))
    if {store.rootfs(key) for key in template.layers[-1:]} & trees_in_use(settings.run_dir, settings.store_dir).trees:
        yield "live or paused sandboxes"


async def _delete(server: ClientEnv, names: list[str]) -> int:
    async with connect(server) as api:
        for name in names:
            await api.delete_template(name)
            print(name)
    return 0
