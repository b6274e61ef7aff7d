"""Writes docs/api.md from docs/openapi.yaml: a table of requests, and one of bodies and answers. `make docs` runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "docs" / "openapi.yaml"
PAGE = ROOT / "docs" / "api.md"
BEGIN = "<!-- Generated from docs/openapi.yaml by `make docs`; do not edit below. -->\n"


_SHORT = {"date-time": "time", "binary": "bytes"}


def kind(schema: dict[str, Any]) -> str:
    """The type of a value in words, with links to the tables of objects."""
    match schema:
        case {"$ref": target}:
            name = target.rpartition("/")[2]
            text = f"[{name}](#{name.lower()})"
        case {"oneOf": choices}:
            text = " or ".join(kind(one) for one in choices)
        case {"const": value}:
            text = f"`{value}`"
        case {"enum": values}:
            text = ", ".join("null" if value is None else f"`{value}`" for value in values)
        case {"type": [*names]}:
            text = " or ".join(kind({**schema, "type": name}) for name in names)
        case {"type": "array", "items": items}:
            text = f"list of {kind(items)}"
        case {"type": "object", "additionalProperties": values}:
            text = f"texts to {kind(values)}"
        case {"type": "string", "format": form}:
            text = _SHORT[form]
        case _:
            text = schema.get("type", "any value")
    return text


def request(path: str, method: str, operation: dict[str, Any]) -> str:
    """A row of the table of requests."""
    shapes = {"query": "`?{}`", "header": "`{}:`"}
    names = [shapes[one["in"]].format(one["name"]) for one in operation.get("parameters", ()) if one.get("in") in shapes]
    content = operation.get("requestBody", {}).get("content", {})
    takes = [*(kind(one["schema"]) for one in content.values()), *names]
    answers = []
    for status, answer in operation["responses"].items():
        if status != "default":
            bodies = [kind(one["schema"]) for one in answer.get("content", {}).values()]
            answers.append(" ".join([status, *bodies]))
    return f"| `{method.upper()} {path}` | {operation['summary']} | {', '.join(takes)} | {', '.join(answers)} |\n"


def fields(schema: dict[str, Any]) -> str:
    """Rows of the table of an object's fields."""
    rows = ""
    for part in schema.get("allOf", [schema]):
        if "$ref" in part:
            rows += f"| all of | {kind(part)} |\n"
        for name, value in part.get("properties", {}).items():
            rows += f"| `{name}`{'' if name in part.get('required', ()) else ' (optional)'} | {kind(value)} |\n"
    return rows


def render(document: dict[str, Any]) -> str:
    """The generated part of the page."""
    text = "\n"
    for tag in document["tags"]:
        text += f"## {tag['name'].capitalize()}\n\n{tag['description']}.\n\n"
        text += "| request | does | takes | answers |\n| --- | --- | --- | --- |\n"
        for path, methods in document["paths"].items():
            text += "".join(request(path, method, one) for method, one in methods.items() if tag["name"] in one["tags"])
        text += "\n"
    text += "## Objects\n"
    schemas = document["components"]["schemas"]
    for name in sorted(schemas, key=str.lower):
        rows = fields(schemas[name])
        text += f"\n### {name}\n" + (f"\n{schemas[name]['description'].strip()}\n" if "description" in schemas[name] else "")
        text += f"\n| field | value |\n| --- | --- |\n{rows}" if rows else ""
    return text


def renewed(page: str) -> str:
    """The page with its generated part made anew."""
    return page.partition(BEGIN)[0] + BEGIN + render(yaml.safe_load(SOURCE.read_text(encoding="utf-8")))


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
