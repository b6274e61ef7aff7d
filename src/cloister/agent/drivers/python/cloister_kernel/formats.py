"""Formats of the Python driver beyond IPython's own: E2B's data and chart types, JSON, and shown or saved images and figures.

This module must not import pandas, matplotlib, Pillow or plotly itself: its hooks take effect when user code imports them.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import itertools
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from IPython.core.formatters import BaseFormatter, PlainTextFormatter
from traitlets import ObjectName, Unicode

from cloister_kernel.channel import clean_json
from cloister_kernel.input import INPUT_EXTENSIONS

__all__ = ["install_formats"]

_MAX_CELLS = 200_000
"""A larger data frame is shown as text and html only."""
_MAX_JSON_BYTES = 8 << 20
_MAX_ITEMS = 200_000
"""A list or dictionary with more items is shown as text only."""
_CONTAINERS = (list, tuple, dict, set, frozenset)
_MAX_SHOWN_ITEMS = 10_000
"""Most items of nested containers in a text."""
_MIN_SHOWN_LENGTH = 3
_MAX_SHOWN_DEPTH = 100


class _DataFormatter(BaseFormatter):  # type: ignore[misc]  # its base has no types
    format_type = Unicode("application/vnd.e2b.data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = dict


class _ChartFormatter(BaseFormatter):  # type: ignore[misc]  # its base has no types
    format_type = Unicode("application/vnd.e2b.chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = dict

    def __call__(self, obj: Any) -> Any:
        """Finds figures by their class's name: the inline backend removes their printers from all formatters when it is loaded."""
        if any(one.__name__ == "Figure" and one.__module__ == "matplotlib.figure" for one in type(obj).__mro__):
            return _figure_chart(obj)
        return super().__call__(obj)


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
    """The value if it is JSON, with NaN as null; None if it is not, or is very large."""
    if not _is_short(value):
        return None
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return None
    return clean_json(value) if len(text) <= _MAX_JSON_BYTES else None


def _is_short(value: Any) -> bool:
    """Whether a list or dictionary has few items, at all depths."""
    return _items(value, sys.maxsize, _MAX_ITEMS)[0] <= _MAX_ITEMS


def _items(value: Any, length: int, limit: int) -> tuple[int, int]:
    """The number of items at all depths, at most ``length`` of each container and about ``limit`` in all; and the depth."""
    items = deepest = 0
    waiting = [(value, 1)]
    while waiting and items <= limit:
        one, depth = waiting.pop()
        if type(one) in _CONTAINERS:
            items += min(len(one), length)
            deepest = max(deepest, depth)
            if items <= limit:
                waiting += [(item, depth + 1) for item in itertools.islice(one.values() if isinstance(one, dict) else one, length)]
    return items, deepest


class _PlainText(PlainTextFormatter):  # type: ignore[misc]  # its base has no types
    """IPython's format with a bound over all depths: IPython shows 1,000 items of each container, too many for nested ones."""

    max_seq_length: Any

    def __call__(self, obj: Any) -> Any:
        """The text, or None."""
        if type(obj) not in _CONTAINERS:
            return super().__call__(obj)
        before: int = self.max_seq_length
        items, depth = _items(obj, before or sys.maxsize, _MAX_SHOWN_ITEMS)
        if depth > _MAX_SHOWN_DEPTH:
            return repr(obj)
        try:
            while items > _MAX_SHOWN_ITEMS and self.max_seq_length > _MIN_SHOWN_LENGTH:
                self.max_seq_length //= 2
                items, _ = _items(obj, self.max_seq_length, _MAX_SHOWN_ITEMS)
            return super().__call__(obj)
        finally:
            self.max_seq_length = before


def _figure_chart(figure: Any) -> dict[str, Any] | None:
    from cloister_kernel.charts import chart_of_figure  # imports matplotlib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return chart_of_figure(figure)


class _ImportHook(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Extends some modules when user code imports them."""

    def __init__(self, extensions: dict[str, Callable[[ModuleType], None]]) -> None:
        self._extensions = extensions
        self._loaders: dict[str, importlib.abc.Loader] = {}

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        """Find only the modules that are extended."""
        if name not in self._extensions or name in self._loaders:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        self._loaders[name] = spec.loader
        spec.loader = self
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """See the real loader."""
        return self._loaders[spec.name].create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module with its own loader, then extend it."""
        loader = self._loaders[module.__name__]
        if module.__spec__ is not None:
            module.__spec__.loader = loader
        module.__loader__ = loader
        loader.exec_module(module)
        self._extensions[module.__name__](module)


def _extend_pillow(module: Any) -> None:
    """Display images that are shown, or saved to a file."""
    from IPython.display import display

    image_class = module.Image
    original_save = image_class.save

    def show(self: Any, title: str | None = None) -> None:
        """Display the image."""
        display(self)

    def save(self: Any, fp: Any, format: str | None = None, **params: Any) -> None:  # noqa: A002 - Pillow's own name
        original_save(self, fp, format, **params)
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if isinstance(fp, (str, os.PathLike)) and not caller.startswith(("matplotlib", "PIL")):
            display(self)

    save.__doc__ = original_save.__doc__
    image_class.show = show
    image_class.save = save


def _extend_plotly(module: Any) -> None:
    """Display figures as one bundle of html and JSON; plotly's own renderers need nbformat and several displays."""
    from IPython.display import display

    figure_class = module.BaseFigure
    original_show = figure_class.show

    def bundle(self: Any, include: Any = None, exclude: Any = None, **options: Any) -> dict[str, Any]:
        """The figure's MIME bundle."""
        html = self.to_html(include_plotlyjs="cdn", full_html=False)
        return {"text/html": html, "application/vnd.plotly.v1+json": json.loads(self.to_json()), "text/plain": repr(self)}

    def show(self: Any, *args: Any, **options: Any) -> Any:
        """Display the figure, unless the program names a renderer."""
        return original_show(self, *args, **options) if args or "renderer" in options else display(self)

    figure_class._repr_mimebundle_ = bundle
    figure_class._ipython_display_ = None
    figure_class.show = show


def install_formats(shell: Any) -> None:
    """Register everything with the shell's display formatter."""
    formatter = shell.display_formatter
    formatter.formatters["text/plain"] = _PlainText(parent=formatter)
    data = _DataFormatter(parent=formatter)
    data.for_type_by_name("pandas", "DataFrame", _frame_data)
    data.for_type_by_name("pandas.core.frame", "DataFrame", _frame_data)
    chart = _ChartFormatter(parent=formatter)
    formatter.formatters["application/vnd.e2b.data"] = data
    formatter.formatters["application/vnd.e2b.chart"] = chart
    as_json = formatter.formatters["application/json"]
    as_json.for_type(dict, _json)
    as_json.for_type(list, _json)
    sys.meta_path.insert(0, _ImportHook({"PIL.Image": _extend_pillow, "plotly.basedatatypes": _extend_plotly, **INPUT_EXTENSIONS}))
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
