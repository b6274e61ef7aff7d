"""The table of MCP servers of the template ``mcp-gateway``, and what becomes of a configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from e2b import McpServer
from mcp_gateway.catalog import GatewayError, Plan, Table, read_table

from cloister.template import stock

FOLDER = Path(stock.__file__).parent / "stock" / "mcp-gateway"
NOT_OF_THE_SDK = {"everything"}
"""Servers that the SDKs' types do not list, and that are there for trying things."""


@pytest.fixture(scope="module")
def table() -> Table:
    """The table as it is shipped."""
    return read_table(FOLDER / "servers.toml")


def plan(table: Table, name: str, config: dict[str, Any]) -> Plan:
    """What becomes of one server's configuration."""
    (only,) = table.plans({name: config})
    return only


def typed_servers() -> dict[str, set[str]]:
    """The servers of the SDK's types, and the fields of each."""
    servers = McpServer.__args__[0].__annotations__  # type: ignore[attr-defined]  # a private part of the typing module
    module = vars(__import__("e2b.sandbox.mcp", fromlist=["mcp"]))
    found = {}
    for name, annotation in servers.items():
        inner = re.search(r"NotRequired\[(\w+)\]", str(getattr(annotation, "__forward_arg__", annotation)))
        kind = module.get(inner[1]) if inner else None
        found[name] = set(getattr(kind, "__annotations__", ()))
    return found


def test_every_server_is_of_the_sdk_and_takes_its_fields(table: Table) -> None:
    """The table names servers as the SDKs' types do, and knows every field of each, and no other."""
    typed = typed_servers()
    rows = table._rows
    assert set(rows) - set(typed) == NOT_OF_THE_SDK
    wrong = {
        name: ({field.rstrip("?") for field in row.fields} | set(row.unused)) ^ typed[name]
        for name, row in rows.items()
        if name not in NOT_OF_THE_SDK and {field.rstrip("?") for field in row.fields} | set(row.unused) != typed[name]
    }
    assert wrong == {}


def test_every_server_has_one_source_pinned(table: Table) -> None:
    """Exactly one of package and address; a package has a version and a program."""
    for row in table._rows.values():
        assert sum(map(bool, (row.npm, row.pypi, row.url))) == 1, row.name
        assert bool(row.url) or row.command, row.name
        assert not row.npm or re.fullmatch(r"(@[\w-]+/)?[\w.-]+@\d[\w.-]*", row.npm), row.npm
        assert not row.pypi or re.match(r"[\w.-]+==\d[\w.]*( |$)", row.pypi), row.pypi


def test_every_field_is_used(table: Table) -> None:
    """Each field that can be configured has an effect, and no place names another."""
    for row in table._rows.values():
        texts = " ".join([row.url, *row.args, *row.env.values(), *row.headers.values()])
        used = {match[1] for match in re.finditer(r"\{(\w+)(?:\.\.\.)?\}", texts)}
        assert used == {name.rstrip("?") for name in row.fields}, row.name


def test_fields_become_variables_arguments_and_headers(table: Table) -> None:
    """A key goes where the server reads it."""
    assert plan(table, "brave", {"apiKey": "k"}).env == {"BRAVE_API_KEY": "k"}
    assert plan(table, "filesystem", {"paths": ["/a", "/b c"]}).args == ("/a", "/b c")
    assert plan(table, "githubOfficial", {"githubPersonalAccessToken": "t"}).headers == {"Authorization": "Bearer t"}
    given = plan(table, "firecrawl", {"apiKey": "k", "retryMax": 3}).env
    assert given == {"FIRECRAWL_API_KEY": "k", "FIRECRAWL_RETRY_MAX_ATTEMPTS": "3"}


def test_what_is_left_out_is_left_out_or_has_its_default(table: Table) -> None:
    """An absent optional field sets no variable; a default stands where there is one; null is absent."""
    assert plan(table, "context7", {}).env == {}
    assert plan(table, "context7", {"apiKey": None}).env == {}
    assert plan(table, "filesystem", {}).args == ("/home/user",)


def test_values_keep_their_meaning(tmp_path: Path) -> None:
    """Truth values are words, lists are joined in a variable, and braces in a value are text."""
    (tmp_path / "t.toml").write_text(
        '[x]\nnpm = "x@1"\ncommand = "x"\nargs = ["--a={a}"]\nenv = { B = "{b}", C = "{c}" }\nfields = ["a", "b", "c"]\n'
    )
    made = plan(read_table(tmp_path / "t.toml"), "x", {"a": "{b} $HOME", "b": True, "c": ["1", 2]})
    assert made.args == ("--a={b} $HOME",)
    assert made.env == {"B": "true", "C": "1,2"}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"nothere": {}}, "no MCP server 'nothere'; there are: .*brave.*time"),
        ({"brave": {}}, "brave: apiKey must be configured"),
        ({"time": {"zone": "UTC"}}, "time: unknown field zone; there are: none"),
        ({"time": "UTC"}, "an object for each server"),
        (["time"], "an object for each server"),
        ({"github/owner": {"runCmd": "x"}}, "github/<owner>/<repository>"),
        ({"github/../x": {"runCmd": "x"}}, "github/<owner>/<repository>"),
        ({"github/a/b": {}}, "runCmd must be configured"),
        ({"github/a/b": {"runCmd": "x", "other": 1}}, "unknown field other"),
        ({"github/a/b": {"runCmd": "x", "envs": []}}, None),
        ({"github/a/b": {"runCmd": "x", "installCmd": 1}}, "installCmd must be a text"),
    ],
)
def test_a_wrong_configuration_is_named(table: Table, config: Any, words: str | None) -> None:
    """The message says which server and which field; an empty ``envs`` is none."""
    if words is None:
        table.plans(config)
        return
    with pytest.raises(GatewayError, match=words):
        table.plans(config)


@pytest.mark.parametrize("names", [("runCmd", "installCmd"), ("run_cmd", "install_cmd")])
def test_servers_of_repositories_are_written_in_either_language(table: Table, names: tuple[str, str]) -> None:
    """JavaScript's spelling of the fields and Python's mean the same."""
    made = plan(table, "github/owner/repo.x", {names[0]: "run it", names[1]: "make", "envs": {"A": 1}})
    assert made == Plan(name="github/owner/repo.x", repository="owner/repo.x", command="run it", install="make", env={"A": "1"})


def test_pulling_needs_no_configuration(table: Table) -> None:
    """The servers installed ahead are those that a configuration would install."""
    pulled = table.pulls(["brave", "github/a/b"])
    assert pulled[0].npm == plan(table, "brave", {"apiKey": "k"}).npm != ""
    assert pulled[1].repository == "a/b"
    with pytest.raises(GatewayError, match="no MCP server 'x'"):
        table.pulls(["x"])


def test_a_table_of_ones_own_adds_and_replaces(tmp_path: Path) -> None:
    """A later file stands before an earlier one; one that is broken is named."""
    own = tmp_path / "servers.toml"
    own.write_text('[mine]\npypi = "mine==1"\ncommand = "mine"\n[time]\nurl = "http://127.0.0.1:1/mcp"\n')
    table = read_table(FOLDER / "servers.toml", own, tmp_path / "absent.toml")
    assert plan(table, "mine", {}).pypi == "mine==1"
    assert plan(table, "time", {}).url == "http://127.0.0.1:1/mcp"
    own.write_text("[mine]\nother = 1\n")
    with pytest.raises(GatewayError, match=r"servers\.toml: .*other"):
        read_table(own)
