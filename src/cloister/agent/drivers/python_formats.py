"""What the Python driver shows of values beyond IPython's own formats: E2B's data and chart types, JSON, and images that are shown or saved.

It must not import pandas, matplotlib or Pillow itself: their hooks take effect when user code has imported them.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from IPython.core.formatters import BaseFormatter
from python_channel import clean_json
from traitlets import ObjectName, Unicode

__all__ = ["install_formats"]

_MAX_CELLS = 1_000_000
"""A larger data frame is shown as text and html only."""
_MAX_JSON_BYTES = 8 << 20


class _DataFormatter(BaseFormatter):  # type: ignore[misc]
    format_type = Unicode("application/vnd.e2b.data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = dict


class _ChartFormatter(BaseFormatter):  # type: ignore[misc]
    format_type = Unicode("application/vnd.e2b.chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = dict


def _frame_data(frame: Any) -> dict[str, list[Any]] | None:
    """{column: [values]}, times as ISO 8601, missing values as null."""
    if frame.size > _MAX_CELLS:
        print(f"The data frame has {frame.size:,} cells: too many for its data to be sent; text and html are.", file=sys.stderr)
        return None
    names = [" ".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in frame.columns]
    return {name: [_cell(value) for value in frame.iloc[:, place].tolist()] for place, name in enumerate(names)}


def _cell(value: Any) -> Any:
    if isinstance(value, (str, int)) or value is None:
        return value
    if type(value).__name__ in ("NaTType", "NAType"):
        return None
    return clean_json(value)


def _json(value: Any) -> Any:
    """The value when it is JSON, with NaN as null; None when it is not, or is very large."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return None
    return clean_json(value) if len(text) <= _MAX_JSON_BYTES else None


def _figure_chart(figure: Any) -> dict[str, Any] | None:
    from python_charts import chart_of_figure  # noqa: PLC0415  # imports matplotlib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return chart_of_figure(figure)


class _PillowHook(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Adds to PIL.Image, when it is imported, that shown and saved images are displayed."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        """Take over the import of PIL.Image only."""
        if name != "PIL.Image":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        self._loader = spec.loader
        spec.loader = self
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """As the real loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then add to its Image class."""
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        _extend_image(module.Image)


def _extend_image(image_class: Any) -> None:
    from IPython.display import display  # noqa: PLC0415

    original_save = image_class.save

    def show(self: Any, title: str | None = None) -> None:
        """Display the image."""
        display(self)

    def save(self: Any, fp: Any, format: str | None = None, **params: Any) -> None:  # noqa: A002  # Pillow's own name
        original_save(self, fp, format, **params)
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if isinstance(fp, (str, os.PathLike)) and not caller.startswith(("matplotlib", "PIL")):
            display(self)

    save.__doc__ = original_save.__doc__
    image_class.show = show
    image_class.save = save


def install_formats(shell: Any) -> None:
    """Register everything with the shell's display formatter."""
    formatter = shell.display_formatter
    data = _DataFormatter(parent=formatter)
    data.for_type_by_name("pandas", "DataFrame", _frame_data)
    data.for_type_by_name("pandas.core.frame", "DataFrame", _frame_data)
    chart = _ChartFormatter(parent=formatter)
    chart.for_type_by_name("matplotlib.figure", "Figure", _figure_chart)
    formatter.formatters["application/vnd.e2b.data"] = data
    formatter.formatters["application/vnd.e2b.chart"] = chart
    as_json = formatter.formatters["application/json"]
    as_json.for_type(dict, _json)
    as_json.for_type(list, _json)
    sys.meta_path.insert(0, _PillowHook())
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    os.environ.setdefault("PLOTLY_RENDERER", "plotly_mimetype+notebook_connected")
