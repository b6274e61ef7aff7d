"""The part of the fake node that has stock templates: two that are built, and others whose state a test sets."""

from __future__ import annotations

from cloister.model.template import AbsentTemplate, Template
from cloister.nodewire.requests import TemplateRef

__all__ = ["TEMPLATES", "FakeTemplates"]

TEMPLATES = tuple(
    Template(template_id=f"tpl{name.replace('-', '')}", name=name, build_id="5b1fe2a4-4f51-4b6f-8a4e-27ab02a05c1e", layers=("0" * 64,))
    for name in ("base", "code-interpreter-v1")
)


class FakeTemplates:
    """Implements the methods of the node protocol about stock templates."""

    absent: dict[str, str] | None = None
    """Notes on templates that are not built, by name."""

    async def templates(self) -> tuple[Template, ...]:
        """See SandboxMethods."""
        return TEMPLATES

    async def absent_template(self, request: TemplateRef) -> AbsentTemplate:
        """See SandboxMethods."""
        return AbsentTemplate((self.absent or {}).get(request.name, ""))
