"""Chart data of a matplotlib figure, in the form that the official SDKs' chart classes parse.

The extraction is that of the PyPI package ``e2b_charts``; this module repairs what would break the wire contract: an extraction
that fails gives a chart of type ``unknown`` that says why (never an empty object), one bad Axes does not spoil the others, bars
are read from their container, so that equal heights are not taken for horizontal bars, boxes in python_boxes.py, and no NaN is left.
"""

from __future__ import annotations

from typing import Any

from python_boxes import chart_of_boxes
from python_channel import clean_json

__all__ = ["chart_of_figure"]

_MAX_ELEMENTS = 200_000
"""Artists' points beyond this many are left to the picture."""


def chart_of_figure(figure: Any) -> dict[str, Any] | None:
    """The chart, or None for a figure without data."""
    axes = [one for one in figure.get_axes() if one.get_label() != "<colorbar>"]
    if not any(one.has_data() for one in axes):
        return None
    if len(axes) == 1:
        return _chart_of_axes(axes[0])
    elements = [_chart_of_axes(one) for one in axes]
    return {"type": "superchart", "title": figure.get_suptitle() or None, "elements": elements}


def _chart_of_axes(axes: Any) -> dict[str, Any]:
    try:
        if _points(axes) > _MAX_ELEMENTS:
            return _unknown(axes, f"more than {_MAX_ELEMENTS:,} points")
        if axes.containers and _only_bars(axes):
            return _bars(axes)
        boxes = chart_of_boxes(axes)
        if boxes is not None:
            return boxes
        from e2b_charts.main import get_chart_from_ax  # noqa: PLC0415  # slow to import

        chart: dict[str, Any] = clean_json(get_chart_from_ax(axes).model_dump(mode="python"))
    except Exception as error:  # the border to a library that reads private parts of another
        return _unknown(axes, f"{type(error).__name__}: {error}")
    chart["type"] = str(getattr(chart["type"], "value", chart["type"]))
    return chart


def _unknown(axes: Any, reason: str) -> dict[str, Any]:
    return {"type": "unknown", "title": axes.get_title() or None, "elements": [], "reason": reason}


def _points(axes: Any) -> int:
    lines = sum(len(line.get_xdata()) for line in axes.get_lines())
    return lines + sum(len(one.get_offsets()) for one in axes.collections) + len(axes.patches)


def _only_bars(axes: Any) -> bool:
    from matplotlib.container import BarContainer  # noqa: PLC0415

    bars = [one for one in axes.containers if isinstance(one, BarContainer)]
    inside = {id(patch) for one in bars for patch in one}
    return bool(bars) and all(id(patch) in inside for patch in axes.patches) and not axes.collections


def _bars(axes: Any) -> dict[str, Any]:
    """A bar chart; for horizontal bars the labels of x and y change places, as the service's own charts have it."""
    from e2b_charts.charts.base import Chart2D, ChartType  # noqa: PLC0415
    from matplotlib.container import BarContainer  # noqa: PLC0415

    chart = Chart2D(ax=axes, type=ChartType.BAR)
    containers = [one for one in axes.containers if isinstance(one, BarContainer)]
    horizontal = all(one.orientation == "horizontal" for one in containers)
    if horizontal:
        chart._change_orientation()
    result: dict[str, Any] = chart.model_dump(mode="python")
    result["type"] = "bar"
    result["elements"] = []
    for number, container in enumerate(containers):
        group = str(container.get_label())
        if group.startswith("_container"):
            group = f"Group {group[10:] or number}"
        for bar in container:
            value = bar.get_width() if horizontal else bar.get_height()
            result["elements"].append({"label": _bar_label(axes, bar, horizontal), "group": group, "value": float(value)})
    cleaned: dict[str, Any] = clean_json(result)
    return cleaned


def _bar_label(axes: Any, bar: Any, horizontal: bool) -> str:
    """The label of the tick nearest to the bar where the ticks are set to name bars; else the bar's place on the axis."""
    from matplotlib.ticker import FixedLocator  # noqa: PLC0415

    axis = axes.yaxis if horizontal else axes.xaxis
    low = bar.get_y() if horizontal else bar.get_x()
    centre = low + (bar.get_height() if horizontal else bar.get_width()) / 2
    locator = axis.get_major_locator()
    if isinstance(locator, FixedLocator) or type(locator).__name__ == "StrCategoryLocator":
        named = [(abs(tick - centre), label.get_text()) for tick, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)]
        if named:
            return str(min(named)[1])
    return f"{float(centre):g}"
