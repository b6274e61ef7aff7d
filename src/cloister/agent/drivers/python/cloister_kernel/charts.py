"""Chart data of a matplotlib figure, in the form that the official SDKs' chart classes parse.

The artists on the Axes decide the kind of a chart: lines, scattered points, bars, pies and boxes. Anything else is a chart of type
``unknown`` whose title says why, never an empty object. Decorations (error bars, bands around a line, spans, reference lines,
annotations) do not change the kind. An error in one Axes does not affect the others, and no NaN remains.
"""

from __future__ import annotations

import math
from typing import Any

from cloister_kernel.channel import clean_json
from cloister_kernel.chart_axes import AxisWords, colour_of, named_by_colour, own_name, point_chart, title_of
from cloister_kernel.chart_bars import chart_of_bars
from cloister_kernel.chart_boxes import chart_of_boxes

__all__ = ["chart_of_figure"]

_MAX_ELEMENTS = 200_000
"""Artists with more points have no chart data, only the picture."""


def chart_of_figure(figure: Any) -> dict[str, Any] | None:
    """The chart, or None for a figure without data."""
    axes = [one for one in figure.get_axes() if one.get_label() != "<colorbar>"]
    drawn = [one for one in axes if one.has_data()]
    if not drawn:
        return None
    if len(axes) == 1:
        return _chart_of_axes(axes[0])
    elements = [_chart_of_axes(one) for one in drawn]
    return {"type": "superchart", "title": figure.get_suptitle() or None, "elements": elements}


def _chart_of_axes(axes: Any) -> dict[str, Any]:
    try:
        if _points(axes) > _MAX_ELEMENTS:
            return _unknown(axes, f"more than {_MAX_ELEMENTS:,} points")
        if axes.name == "3d":
            return _unknown(axes, "three dimensions")
        chart = next((chart for read in (_pie, chart_of_boxes, chart_of_bars, _scatter, _lines) if (chart := read(axes)) is not None), None)
    except Exception as error:  # plots have every form: any error of one is caught here
        return _unknown(axes, f"{type(error).__name__}: {error}")
    if chart is None:
        kinds = sorted({type(one).__name__ for one in (*axes.collections, *axes.patches, *axes.images, *axes.lines)})
        return _unknown(axes, f"no chart of {', '.join(kinds)}")
    cleaned: dict[str, Any] = clean_json(chart)
    return cleaned


def _unknown(axes: Any, reason: str) -> dict[str, Any]:
    return {"type": "unknown", "title": title_of(axes), "elements": [], "reason": reason}


def _points(axes: Any) -> int:
    lines = sum(len(line.get_xdata()) for line in axes.get_lines())
    return lines + sum(len(one.get_offsets()) for one in axes.collections) + len(axes.patches)


def _pie(axes: Any) -> dict[str, Any] | None:
    from matplotlib.patches import Shadow, Wedge  # only where a figure has loaded it

    wedges = [patch for patch in axes.patches if isinstance(patch, Wedge)]
    if not wedges or axes.collections or not all(isinstance(patch, (Wedge, Shadow)) for patch in axes.patches):
        return None
    names = named_by_colour(axes)
    elements = []
    for wedge in wedges:
        label = str(wedge.get_label())
        if not label or label.startswith("_"):
            label = names.get(colour_of(wedge) or (), "")
        elements.append({"label": label, "angle": _rounded(abs(wedge.theta2 - wedge.theta1)), "radius": float(wedge.r)})
    return {"type": "pie", "title": title_of(axes), "elements": elements}


def _rounded(angle: float) -> float:
    """Matplotlib stores wedges in single precision: round away the noise digits."""
    return float(f"{angle:.{max(1, 8 - math.floor(math.log10(angle)))}g}") if angle > 0 else 0.0


def _scatter(axes: Any) -> dict[str, Any] | None:
    from matplotlib.collections import PathCollection  # only where a figure has loaded it

    if not axes.collections or not all(isinstance(one, PathCollection) for one in axes.collections) or axes.patches or axes.images:
        return None
    if any(_is_data(axes, line) for line in axes.lines):
        return None
    chart = point_chart(axes, "scatter")
    names = named_by_colour(axes)
    across, along = AxisWords(axes.xaxis), AxisWords(axes.yaxis)
    for collection in axes.collections:
        points = [[across.word(x), along.word(y)] for x, y in collection.get_offsets().tolist()]
        if points:
            chart["elements"] += _by_colour(collection, points, names)
    return chart


def _by_colour(collection: Any, points: list[list[Any]], names: dict[tuple[float, ...], str]) -> list[dict[str, Any]]:
    """One element, or one for each colour if the legend names the colours of all points."""
    label = str(collection.get_label())
    colours = [tuple(round(float(part), 3) for part in colour[:3]) for colour in collection.get_facecolors()]
    if not label.startswith("_") or not colours or not all(colour in names for colour in colours):
        return [{"label": label, "points": points}]
    if len(colours) == 1:
        colours *= len(points)
    groups: dict[str, list[list[Any]]] = {name: [] for colour, name in names.items() if colour in colours}
    for colour, point in zip(colours, points, strict=True):
        groups[names[colour]].append(point)
    return [{"label": name, "points": group} for name, group in groups.items()]


def _is_data(axes: Any, line: Any) -> bool:
    """Whether a line is data: reference lines (``axhline``) do not lie in the coordinates of the data alone."""
    return bool(line.get_transform() == axes.transData) and type(line).__name__ != "AxLine" and len(line.get_xdata()) > 0


def _lines(axes: Any) -> dict[str, Any] | None:
    lines = _data_lines(axes)
    shapes = [patch for patch in axes.patches if patch.get_data_transform() == axes.transData]
    if not lines or shapes or axes.images or not _only_decorated(axes, [line for line, _ in lines]):
        return None
    chart = point_chart(axes, "line")
    across, along = AxisWords(axes.xaxis), AxisWords(axes.yaxis)
    for line, label in lines:
        points = [list(point) for point in zip(across.words(line.get_xdata()), along.words(line.get_ydata()), strict=False)]
        chart["elements"].append({"label": label, "points": points})
    return chart


def _data_lines(axes: Any) -> list[tuple[Any, str]]:
    """The lines with their labels; lines of error bars and stems are recognised by their containers."""
    from matplotlib.container import ErrorbarContainer, StemContainer  # only where a figure has loaded it

    labels: dict[int, str] = {}
    left_out: set[int] = set()
    for one in axes.containers:
        if isinstance(one, ErrorbarContainer):
            labels[id(one[0])] = str(one.get_label())
            left_out.update(id(cap) for cap in one[1])
        elif isinstance(one, StemContainer):
            labels[id(one.markerline)] = str(one.get_label())
            left_out.add(id(one.baseline))
    names = named_by_colour(axes)
    found = []
    for number, line in enumerate(one for one in axes.lines if id(one) not in left_out and _is_data(axes, one)):
        label = labels.get(id(line), "_")
        if label.startswith("_"):
            own = str(line.get_label())
            label = own_name(line, names) or (f"Line {own[6:]}" if own.startswith("_child") else f"Line {number}")
        found.append((line, label))
    return found


def _only_decorated(axes: Any, lines: list[Any]) -> bool:
    """Whether collections are error bars, or bands along a line."""
    from matplotlib.collections import LineCollection, PolyCollection  # only where a figure has loaded it

    extents = [line.get_path().get_extents() for line in lines]
    for one in axes.collections:
        if isinstance(one, LineCollection):
            continue
        if not isinstance(one, PolyCollection):
            return False
        for path in one.get_paths():
            band = path.get_extents()
            slack = 1e-9 * max(1.0, abs(band.x0), abs(band.x1))
            if not any(line.x0 < line.x1 and line.x0 - slack <= band.x0 and band.x1 <= line.x1 + slack for line in extents):
                return False
    return True
