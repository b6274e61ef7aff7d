"""Template records on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cloister.errors import StoreError
from cloister.model.template import Template
from cloister.template.templaterecords import TemplateRecords, write_template_record

_TEMPLATE = Template(template_id="t1", name="first", build_id="b1", layers=("aa", "bb"), authors=())


def test_record_is_read_once_until_it_is_another_file(tmp_path: Path) -> None:
    """A record is read once. A replaced record is read again, and a removed one is gone."""
    path, records = tmp_path / "first.json", TemplateRecords()
    assert records.read(path) is None
    write_template_record(path, _TEMPLATE)
    read = records.read(path)
    assert read == _TEMPLATE
    assert records.read(path) is read
    write_template_record(path, replace(_TEMPLATE, build_id="b2"))
    assert records.read(path) == replace(_TEMPLATE, build_id="b2")
    path.unlink()
    assert records.read(path) is None
    write_template_record(path, _TEMPLATE)
    assert records.read(path) == _TEMPLATE


def test_damaged_record_is_told_each_time(tmp_path: Path) -> None:
    """A record that is no template is an error, also where a good one was read before."""
    path, records = tmp_path / "first.json", TemplateRecords()
    write_template_record(path, _TEMPLATE)
    assert records.read(path) == _TEMPLATE
    path.write_text("{")
    for _ in range(2):
        with pytest.raises(StoreError, match="damaged"):
            records.read(path)


def test_stock_template_has_no_authors(tmp_path: Path) -> None:
    """The record of a version that did not write authors is of the server's own code when it is a stock template's."""
    path, records = tmp_path / "first.json", TemplateRecords()
    write_template_record(path, replace(_TEMPLATE, authors=None))
    assert records.read(path) == replace(_TEMPLATE, authors=None)
    assert records.stock(path) == _TEMPLATE
