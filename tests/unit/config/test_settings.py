"""The settings table: where values come from, what is refused, and that its documentation is complete."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from cloister.config.document import render
from cloister.config.load import add_arguments, load
from cloister.config.settings import SETTINGS, Settings
from cloister.errors import InvalidRequestError

DOCUMENT = Path(__file__).parents[3] / "docs" / "configuration.md"


def parse(*words: str) -> argparse.Namespace:
    """A parsed command line with all settings."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_documentation_is_complete() -> None:
    """docs/configuration.md is what the table generates."""
    assert DOCUMENT.read_text(encoding="utf-8") == render(), "run: python -m cloister.config.document docs/configuration.md"


def test_help_is_one_line_each() -> None:
    """Each setting's help is one short sentence under a heading, so that ``--help`` shows one line for it."""
    for setting in SETTINGS:
        assert setting.help.endswith("."), setting.name
        assert len(setting.help) <= 72, setting.name
        assert setting.group, setting.name
    text = argparse.ArgumentParser(prog="x")
    add_arguments(text)
    assert len(text.format_help().splitlines()) < 240  # of a terminal with 80 columns
    assert text.format_usage() == "usage: x [OPTION]...\n"


def test_precedence(tmp_path: Path) -> None:
    """Command line counts before environment, environment before file, file before default."""
    file = tmp_path / "c.toml"
    file.write_text('max_timeout_s = 1\nmax_body_mib = 2\ndefault_pids = 33\nlog_level = "debug"\n')
    environ = {"CLOISTER_CONFIG": str(file), "CLOISTER_MAX_TIMEOUT_S": "10", "CLOISTER_MAX_BODY_MIB": "20"}
    settings = load(parse("--max-timeout-s", "100"), environ)
    assert (settings.max_timeout_s, settings.max_body_mib, settings.default_pids, settings.log_level) == (100, 20, 33, "debug")
    assert settings.listen == Settings().listen


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"CLOISTER_MAX_TIMEOUT_S": "soon"}, "max_timeout_s"),
        ({"CLOISTER_MAX_TIMEOUT_S": "-1"}, "must be positive"),
        ({"CLOISTER_LOG_LEVEL": "loud"}, "must be one of"),
        ({"CLOISTER_POOL_SIZE": "-1"}, "pool_size.*negative"),
        ({"CLOISTER_INCLUDE_CREDENTIALS": "perhaps"}, "include_credentials.*true or false"),
        ({"CLOISTER_LISTN": "x"}, "CLOISTER_LISTN"),
        ({"CLOISTER_CONFIG": "/nowhere.toml"}, "/nowhere.toml"),
    ],
)
def test_wrong_values_are_refused_by_name(environ: dict[str, str], named: str) -> None:
    """A wrong value or an unknown name is an error that names it."""
    with pytest.raises(InvalidRequestError, match=named):
        load(None, environ)


def test_the_standard_variable_of_traces_is_the_weakest_source() -> None:
    """OTEL_EXPORTER_OTLP_ENDPOINT counts where no source of our own has the setting; one that no server can use is ignored."""
    standard = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    assert load(None, {}).otlp_endpoint is None
    assert load(None, standard).otlp_endpoint == "http://127.0.0.1:4318"
    assert load(None, {**standard, "CLOISTER_OTLP_ENDPOINT": "http://other:1"}).otlp_endpoint == "http://other:1"
    assert load(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}).otlp_endpoint is None
    with pytest.raises(InvalidRequestError, match=r"otlp_endpoint \(environment\).*is not the URL"):
        load(None, {"CLOISTER_OTLP_ENDPOINT": "collector:4317"})


def test_switches_are_words_or_toml_values(tmp_path: Path) -> None:
    """A switch is true or false in every source, and off unless it is given."""
    file = tmp_path / "c.toml"
    file.write_text("include_credentials = true\n")
    assert load(parse("--config", str(file)), {}).include_credentials is True
    assert load(None, {"CLOISTER_INCLUDE_CREDENTIALS": "TRUE"}).include_credentials is True
    assert load(parse("--include-credentials", "false"), {"CLOISTER_INCLUDE_CREDENTIALS": "true"}).include_credentials is False
    assert load(None, {}).include_credentials is False


def test_unknown_key_in_the_file(tmp_path: Path) -> None:
    """A key of the file that is no setting is refused."""
    file = tmp_path / "c.toml"
    file.write_text("listn = 1\n")
    with pytest.raises(InvalidRequestError, match="listn"):
        load(parse("--config", str(file)), {})


def test_every_setting_survives_the_way_to_a_child() -> None:
    """``from_json`` reads the output of ``to_json`` back unchanged, for every kind of setting."""
    settings = Settings(
        domain="sbx.test", include_credentials=True, dns_upstreams=("1.1.1.1", "9.9.9.9"), extra_ca_file=Path("/ca.pem"), node_wait_s=1.5
    )
    assert Settings.from_json(settings.to_json()) == settings


def test_every_setting_has_help_and_a_way_in() -> None:
    """Each setting has help, an option and a variable, and its default passes its own check."""
    for setting in SETTINGS:
        assert setting.help.endswith((".", "`"))
        assert getattr(parse(setting.option, "x"), setting.name) == "x"
        assert setting.convert(setting.default) == setting.default
