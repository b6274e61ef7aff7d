"""docs/openapi.yaml against the code: the same routes, the same fields of bodies, valid schemas, and a page made from it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from aiohttp import web
from jsonschema import Draft202012Validator

from cloister.agent.volume.app import make_app
from cloister.agent.volume.tree import Tree
from cloister.api.app import add_routes
from cloister.api.handlers import Api
from cloister.api.metrics.counts import Meters
from cloister.api.routes import NOT_BUILT
from cloister.api.volume_content import CONTENT_PATH, VolumeContent

ROOT = Path(__file__).parents[3]
DOCUMENT: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text(encoding="utf-8"))
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
OPERATIONS = {(method.upper(), path): one for path, methods in DOCUMENT["paths"].items() for method, one in methods.items()}


def _routes(app: web.Application) -> set[tuple[str, str]]:
    """Methods and paths of an application, without the ``HEAD`` that aiohttp adds to each ``GET``."""
    pairs = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None}
    return {(method, path) for method, path in pairs if method != "HEAD"}


async def _nothing(*_: object) -> web.Response:
    return web.Response()


def _served() -> set[tuple[str, str]]:
    """Methods and paths of the server. Those of a volume's content are the routes of the process that serves it."""
    app = web.Application()
    add_routes(app, cast("Api", None), cast("Meters", None), cast("VolumeContent", SimpleNamespace(handle=_nothing)), lambda: True)
    content = {(method, f"/volumecontent/{{volume_id}}{path}") for method, path in _routes(make_app(cast("Tree", None)))}
    plain = CONTENT_PATH.partition("/{part")[0]
    return {(method, path) for method, path in _routes(app) if not path.startswith(plain)} | content


def test_the_file_has_the_routes_of_the_server_and_no_other() -> None:
    """Methods and paths are the same in both directions."""
    assert sorted(_served() - OPERATIONS.keys()) == []
    assert sorted(OPERATIONS.keys() - _served()) == []


def test_routes_that_are_refused_are_marked() -> None:
    """They are deprecated and answer 400 alone."""
    marked = {key for key, one in OPERATIONS.items() if one.get("deprecated")}
    assert marked == {(method, path) for method, path, _ in NOT_BUILT}
    assert all(set(OPERATIONS[key]["responses"]) == {"400"} for key in marked)


def test_names_of_operations_are_unique() -> None:
    """Generators make functions of them."""
    names = [one["operationId"] for one in OPERATIONS.values()]
    assert len(names) == len(set(names))


def test_parameters_of_paths_are_declared() -> None:
    """Each ``{name}`` of a path is a parameter of its operations."""
    for (method, path), one in OPERATIONS.items():
        named = {ref["$ref"].rpartition("/")[2] for ref in one.get("parameters", ()) if "$ref" in ref}
        assert named == set(re.findall(r"\{(\w+)\}", path)), (method, path)
        assert named <= DOCUMENT["components"]["parameters"].keys()


def test_schemas_are_valid_and_each_is_used() -> None:
    """Each schema is one of JSON Schema 2020-12, each reference leads somewhere, and none is left over."""
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)
    used = set(re.findall(r"#/components/schemas/(\w+)", yaml.safe_dump(DOCUMENT)))
    assert used == SCHEMAS.keys()


def _documented_fields() -> dict[tuple[str, str], set[str]]:
    """First names of the fields of each body, by the table of docs/compatibility.md, which test_fields.py compares with the code."""
    text = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    table = text.partition("| request | field | is |\n")[2].partition("\n\n")[0]
    found: dict[tuple[str, str], set[str]] = {}
    requests: list[tuple[str, str]] = []
    for line in table.splitlines()[1:]:
        request, field = [cell.strip() for cell in line.strip("|").split("|")[:2]]
        requests = [(method, path) for method, path in re.findall(r"`(\w+) ([^`]+)`", request)] or requests
        names = {re.split(r"[.\[]", name)[0] for name in re.findall(r"`([^`]+)`", field.partition("(`true`")[0]) if name[0] != "."}
        for one in requests:
            found.setdefault(one, set()).update(names)
    return found


@pytest.mark.parametrize(("request_line", "names"), _documented_fields().items(), ids=" ".join)
def test_bodies_have_the_fields_that_are_read(request_line: tuple[str, str], names: set[str]) -> None:
    """The first names of a body's fields are those of the documented table, in both directions."""
    wanted = request_line[0], re.sub(r"\{\w+\}", "{}", request_line[1])
    (one,) = [one for (method, path), one in OPERATIONS.items() if (method, re.sub(r"\{\w+\}", "{}", path)) == wanted]
    name = one["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert set(SCHEMAS[name]["properties"]) == names


def test_the_page_is_made_from_the_file() -> None:
    """``make docs`` was run after the last change."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "site" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert reference.renewed(page) == page
