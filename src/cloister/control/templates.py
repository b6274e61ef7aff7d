"""Which templates there are, and which one a name in a request means.

The node says what it can run; this remembers its answer and asks again for a name that it does not know. Names are those of the
published API: id, alias, ``alias:tag`` or ``namespace/alias``; until tags are built, every template has the one tag ``default``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from cloister.cluster.base import NodeClient
from cloister.errors import TemplateNotFoundError
from cloister.model.template import Template

__all__ = ["DEFAULT_TAG", "Templates"]

DEFAULT_TAG = "default"


class Templates:
    """The templates of one node."""

    def __init__(self, node: NodeClient) -> None:
        self._node = node
        self._known: Sequence[Template] = ()
        self._by_name: dict[str, Template] = {}
        self.since = time.time()
        """When this process first knew of templates."""

    def learn(self, templates: Sequence[Template]) -> None:
        """Replace what is known by the node's present answer."""
        self._known = tuple(templates)
        self._by_name = {name: template for template in templates for name in (template.template_id, template.name, *template.aliases)}

    async def list(self) -> Sequence[Template]:
        """All templates, as the node has them now."""
        self.learn(await self._node.templates())
        return self._known

    async def find(self, reference: str) -> Template:
        """The template that a client means by ``reference``.

        Raises:
            TemplateNotFoundError: there is none of that name, or not with that tag.
        """
        name, _, tag = reference.strip().lower().partition(":")
        template = self._by_name.get(name)
        if template is None:
            await self.list()
            template = self._by_name.get(name)
        if template is None:
            names = ", ".join(sorted({template.name for template in self._known})) or "none"
            raise TemplateNotFoundError(f"template '{reference}' not found", hint=f"templates of this server: {names}")
        if tag and tag != DEFAULT_TAG:
            raise TemplateNotFoundError(f"tag '{tag}' does not exist for template '{name}'")
        return template
