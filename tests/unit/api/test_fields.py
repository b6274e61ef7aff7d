"""Fields that are not known: which are passed over, which are refused, and what the documentation says of those that are known."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from cloister.api import header_rules, identity_fields, network_fields, proxy_fields, schemas, template_schemas, volume_fields, volumes
from cloister.api.fields import Fields, is_grave
from cloister.errors import InvalidRequestError

_DOCS = Path(__file__).parents[3] / "docs" / "compatibility.md"


@pytest.mark.parametrize(
    ("name", "grave"),
    [
        ("surprise", False),
        ("description", False),
        ("displayName", False),
        ("labels", False),
        ("runtime_hints", True),
        ("allow_outgoing", True),
        ("denyPackages", True),
        ("gpuCount", True),
        ("memoryGB", True),
        ("userName", True),
        ("requireTLS", True),
        ("egressIP", True),
        ("DNSServers", True),
        ("isPublic", True),
        ("networkPolicy", True),
        ("readOnly", True),
        ("maxLifetime", True),
        ("stopAfterIdle", True),
        ("offline", True),
        ("minInstances", True),
        ("restrictTo", True),
        ("exposed", True),
        ("RAM", True),
        ("vCPU", True),
        ("ramp", False),
        ("zip", False),
        ("snippet", False),
    ],
)
def test_what_a_name_says(name: str, grave: bool) -> None:
    """Whole words decide, in either spelling, so that a name is not grave by letters in the middle of a word."""
    assert is_grave(name) is grave


def test_empty_fields_ask_for_nothing() -> None:
    """A new default that is empty is passed over whatever its name, false and zero are not empty, and strict objects take nothing else."""
    nothing: tuple[object, ...] = (None, "", [], {})
    for empty in nothing:
        Fields({"denyAll": empty}).end()
        Fields({"x": empty}, "network.", is_strict=True).end()
    for value in (False, 0, "x", [0]):
        Fields({"x": value}).end()
        with pytest.raises(InvalidRequestError, match="unknown field: denyAll"):
            Fields({"denyAll": value}).end()
        with pytest.raises(InvalidRequestError, match=r"unknown field: network\.x"):
            Fields({"x": value}, "network.", is_strict=True).end()


def test_documentation_has_each_field() -> None:
    """Every field that a request's parser takes or refuses is in the table."""
    text = _DOCS.read_text()
    documented = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", text))))
    for module in (schemas, template_schemas, network_fields, header_rules, proxy_fields, identity_fields, volume_fields, volumes):
        source = inspect.getsource(module)
        taken = set(re.findall(r"""\.(?:take\w*|refuse)\("(\w+)\"""", source)) | set(re.findall(r"""\(\"(\w+)", [({\[]""", source))
        assert taken
        assert taken <= documented
