"""Template records: files with one :class:`Template` each, replaced by a rename and never changed in place.

A creation looks at every stock record, so templates are cached and read again when the file is another one. Callers must not change a
template, because its mappings are shared.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

from cloister.errors import StoreError
from cloister.linux.files import write_whole
from cloister.model.template import Template

__all__ = ["TemplateRecords", "write_template_record"]

_KEPT = 1024
_Identity = tuple[int, int, int, int]


class TemplateRecords:
    """A cache of the latest ``_KEPT`` records. Thread-safe: two threads may read the same file, with the same result."""

    def __init__(self) -> None:
        self._read: OrderedDict[Path, tuple[_Identity, Template]] = OrderedDict()

    def read(self, path: Path) -> Template | None:
        """The template of a record; None when there is no such file.

        Raises:
            StoreError: the record is damaged.
        """
        known = self._read.get(path)
        try:
            identity = _identity(path.stat())
            if known is not None and known[0] == identity:
                return known[1]
            with path.open() as file:
                identity = _identity(os.fstat(file.fileno()))
                template = Template.from_json(json.load(file))
        except FileNotFoundError:
            self._read.pop(path, None)
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(f"the record {path} is damaged: {error}") from error
        self._read[path] = (identity, template)
        while len(self._read) > _KEPT:
            self._read.popitem(last=False)
        return template

    def stock(self, path: Path) -> Template | None:
        """As :meth:`read`. A stock template has no authors, also when an older version wrote its record."""
        template = self.read(path)
        return template if template is None or template.authors == () else replace(template, authors=())


def write_template_record(path: Path, template: Template) -> None:
    """Write ``template`` as the record ``path``, in place of an older one."""
    write_whole(path, json.dumps(template.to_json(), indent=1) + "\n")


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
