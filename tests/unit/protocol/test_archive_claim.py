"""The SDKs' hash of a ``COPY``, made again of what was uploaded."""

from __future__ import annotations

import functools
import io
import os
from pathlib import Path

import pytest
from e2b.template.utils import calculate_files_hash, tar_file_stream

from cloister.protocol.archive import archive_digest
from cloister.protocol.archive_claim import Claim, check_claim

_WRONG = "0" * 64


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files, directories and links to copy."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_text("1" * 700)
    (tmp_path / "a" / "b" / ("long" * 40)).write_text("2")
    (tmp_path / "a" / "é ü").write_text("3")
    (tmp_path / "a" / "link").symlink_to("one")
    (tmp_path / "program").write_text("#!/bin/sh\n")
    (tmp_path / "program").chmod(0o755)
    (tmp_path / "empty").write_text("")
    return tmp_path


def _upload(source: str, tree: Path, *, resolve: bool = False, gzip: bool = True) -> bytes:
    with tar_file_stream(source, str(tree), [], resolve, gzip) as stream:
        return stream.read()


@pytest.mark.parametrize("gzip", [True, False])
@pytest.mark.parametrize("resolve", [True, False])
@pytest.mark.parametrize("source", ["program", "empty", "a", "a/one", "a/link", "a/*", ".", "**/one"])
def test_honest_python_client_is_believed(tree: Path, source: str, *, resolve: bool, gzip: bool) -> None:
    """What the Python SDK uploads has the hash that it told, whatever the source, its links and the compression."""
    told = calculate_files_hash(source, "/app/", str(tree), [], resolve, None)
    data = _upload(source, tree, resolve=resolve, gzip=gzip)
    digest, claim = check_claim(lambda: io.BytesIO(data), source, "/app/", told)
    assert claim is Claim.TRUE
    assert digest == archive_digest(io.BytesIO(data))


def test_a_false_hash_is_noticed(tree: Path) -> None:
    """Another archive than the hash tells of is noticed: other content, other mode, other destination."""
    data = _upload("program", tree)
    told = calculate_files_hash("program", "/app/", str(tree), [], False, None)
    assert check_claim(lambda: io.BytesIO(data), "program", "/else", told)[1] is Claim.FALSE
    assert check_claim(lambda: io.BytesIO(data), "program", "/app/", _WRONG)[1] is Claim.FALSE
    (tree / "program").chmod(0o700)
    changed = _upload("program", tree)
    assert check_claim(lambda: io.BytesIO(changed), "program", "/app/", told)[1] is Claim.FALSE


def test_directories_and_hard_links_leave_it_open(tree: Path) -> None:
    """Where an honest client's hash cannot be made again, a difference proves nothing."""
    os.link(tree / "program", tree / "program2")
    for source in ("a", "program*"):
        data = _upload(source, tree)
        assert check_claim(functools.partial(io.BytesIO, data), source, "/x", _WRONG)[1] is Claim.UNKNOWN
