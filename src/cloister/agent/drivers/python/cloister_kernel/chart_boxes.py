"""Box-and-whisker charts of matplotlib, filled or not, vertical or horizontal, in the form that the official SDKs' chart classes parse.

matplotlib keeps no record of a box plot, so this module recognises its shapes. A box is a closed rectangle. Its median is a line across it,
its whiskers are lines along its middle that begin at its ends, its outliers are markers on its middle.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cloister_kernel.chart_axes import describe

__all__ = ["chart_of_boxes"]

_CORNERS = 4


@dataclass
class _Box:
    """``along`` is the axis of values: y for vertical boxes. ``side`` is the other."""

    side: tuple[float, float]
    along: tuple[float, float]
    median: float | None = None
    ends: list[float] = field(default_factory=list)
    outliers: list[float] = field(default_factory=list)

    @property
    def middle(self) -> float:
        return sum(self.side) / 2

    def has_middle(self, place: float) -> bool:
        return abs(place - self.middle) <= 1e-6 * max(1.0, abs(self.middle))


def chart_of_boxes(axes: Any) -> dict[str, Any] | None:
    """The chart; None if the Axes hold anything except box plots."""
    outlines = _outlines(axes)
    if not outlines:
        return None
    lines = [_points(line.get_xdata(), line.get_ydata()) for line in axes.get_lines()]
    upright = not any(_is_median(points, outlines, 1) for points in lines) or any(_is_median(points, outlines, 0) for points in lines)
    side, along = (0, 1) if upright else (1, 0)
    boxes = [_Box(_extent(outline, side), _extent(outline, along)) for outline in outlines]
    for points in lines:
        _assign(points, boxes, side, along)
    if any(box.median is None for box in boxes):
        return None
    return _render(axes, boxes, upright)


def _points(xs: Any, ys: Any) -> list[tuple[float, float]]:
    try:
        return [(float(x), float(y)) for x, y in zip(xs, ys, strict=False)]
    except (TypeError, ValueError):
        return []  # dates and categories, which no box plot has


def _outlines(axes: Any) -> list[list[tuple[float, float]]]:
    from matplotlib.patches import PathPatch  # only where a figure has loaded it

    filled = [[(float(x), float(y)) for x, y in patch.get_path().vertices] for patch in axes.patches if isinstance(patch, PathPatch)]
    drawn = [_points(line.get_xdata(), line.get_ydata()) for line in axes.get_lines()]
    closed = [points for points in drawn if len(points) > _CORNERS and points[0] == points[-1] and len({*points}) >= _CORNERS]
    return filled or closed


def _extent(points: list[tuple[float, float]], axis: int) -> tuple[float, float]:
    values = [point[axis] for point in points]
    return min(values), max(values)


def _is_median(points: list[tuple[float, float]], outlines: list[list[tuple[float, float]]], side: int) -> bool:
    """Whether a line of two points lies across one of the boxes, with its ends on the box's sides."""
    if len(points) != 2 or points[0][1 - side] != points[1][1 - side]:
        return False
    across = _extent(points, side)
    for outline in outlines:
        sides, (low, high) = _extent(outline, side), _extent(outline, 1 - side)
        if abs(across[0] - sides[0]) < 1e-9 and abs(across[1] - sides[1]) < 1e-9 and low <= points[0][1 - side] <= high:
            return True
    return False


def _assign(points: list[tuple[float, float]], boxes: list[_Box], side: int, along: int) -> None:
    for box in boxes:
        places = [point[side] for point in points]
        values = [point[along] for point in points]
        if not points or (len(points) > 2 and not all(map(box.has_middle, places))):
            continue
        if len(points) == 2 and (min(places), max(places)) == box.side and values[0] == values[1]:
            box.median = values[0] if box.along[0] <= values[0] <= box.along[1] and box.median is None else box.median
        elif len(points) == 2 and all(map(box.has_middle, places)) and (values[0] in box.along or values[1] in box.along):
            box.ends += values
        elif all(map(box.has_middle, places)):
            box.outliers += values


def _render(axes: Any, boxes: list[_Box], upright: bool) -> dict[str, Any]:
    chart = describe(axes, "box_and_whisker")
    axis = axes.xaxis if upright else axes.yaxis
    names = [(tick, label.get_text()) for tick, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)]
    chart["elements"] = [
        {
            "label": min(names, key=lambda name: abs(name[0] - box.middle))[1] if names else "",
            "min": min([*box.ends, box.along[0]]),
            "first_quartile": box.along[0],
            "median": box.median,
            "third_quartile": box.along[1],
            "max": max([*box.ends, box.along[1]]),
            "outliers": box.outliers,
        }
        for box in boxes
    ]
    return chart
