"""Bar charts: every bar with its label, group and value, from matplotlib's containers of bars.

A bar's label is the tick that names it, the date under it, or its position. For horizontal bars the labels of x and y are exchanged, as in
the service's own charts.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

from cloister_kernel.chart_axes import AxisWords, describe, named_by_colour, own_name

__all__ = ["chart_of_bars"]

_DAY = dt.timedelta(days=1)
_MIDNIGHT = re.compile(r"\d{4}-\d\d-\d\d 00:00:00")


def chart_of_bars(axes: Any) -> dict[str, Any] | None:
    """The chart; None if there are no bars, or other shapes and collections of data beside them."""
    from matplotlib.collections import LineCollection  # only where a figure has loaded it
    from matplotlib.container import BarContainer  # only where a figure has loaded it

    containers = [one for one in axes.containers if isinstance(one, BarContainer) and len(one)]
    inside = {id(patch) for one in containers for patch in one}
    # a shape outside the coordinates of the data, such as axvspan, only marks a region
    shapes = [patch for patch in axes.patches if patch.get_data_transform() == axes.transData and _has_size(patch)]
    others = [patch for patch in shapes if id(patch) not in inside]
    if not containers or others or not all(isinstance(one, LineCollection) for one in axes.collections):
        return None
    horizontal = all(one.orientation == "horizontal" for one in containers)
    chart = describe(axes, "bar")
    if horizontal:
        for name in ("label", "unit"):
            chart[f"x_{name}"], chart[f"y_{name}"] = chart[f"y_{name}"], chart[f"x_{name}"]
    names = named_by_colour(axes)
    for number, container in enumerate(containers):
        labels = _labels(axes.yaxis if horizontal else axes.xaxis, [_extent(bar, horizontal) for bar in container])
        for bar, label in zip(container, labels, strict=True):
            value = bar.get_width() if horizontal else bar.get_height()
            chart["elements"].append({"label": label, "group": _group(container, bar, names, number), "value": float(value)})
    return chart


def _has_size(patch: Any) -> bool:
    """Whether a shape is visible: seaborn draws empty ones for its legend."""
    return bool(getattr(patch, "get_width", lambda: 1)() or getattr(patch, "get_height", lambda: 1)())


def _group(container: Any, bar: Any, names: dict[tuple[float, ...], str], number: int) -> str:
    label = str(container.get_label())
    if not label.startswith("_"):
        return label
    named = own_name(bar, names)
    if named is not None:
        return named
    return f"Group {label[10:] or number}" if label.startswith("_container") else f"Group {number}"


def _extent(bar: Any, horizontal: bool) -> tuple[float, float]:
    low, width = (bar.get_y(), bar.get_height()) if horizontal else (bar.get_x(), bar.get_width())
    return float(low), float(low + width)


def _labels(axis: Any, extents: list[tuple[float, float]]) -> list[str]:
    """A label for each bar of one container."""
    from matplotlib.ticker import FixedLocator  # only where a figure has loaded it

    words = AxisWords(axis)
    if words.dates:
        return _dates(words, extents)
    middles = [sum(extent) / 2 for extent in extents]
    places = [f"{middle:g}" for middle in middles]
    if words.categories:
        return [words.categories[min(words.categories, key=lambda place: abs(place - middle))] for middle in middles]
    if not isinstance(axis.get_major_locator(), FixedLocator):
        return places
    ticks = [(float(tick), label.get_text()) for tick, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)]
    if not ticks:
        return places
    if all(_MIDNIGHT.fullmatch(text) for _, text in ticks):  # the form in which pandas names dates
        ticks = [(tick, text[:10]) for tick, text in ticks]
    nearest = [min(ticks, key=lambda tick: abs(tick[0] - middle)) for middle in middles]
    apart = len({tick for tick, _ in nearest}) == len({*middles})
    return [
        text if text and (apart or min(extent) <= tick <= max(extent)) else place
        for (tick, text), extent, place in zip(nearest, extents, places, strict=True)
    ]


def _dates(words: AxisWords, extents: list[tuple[float, float]]) -> list[str]:
    """The dates of bars: their middles, or their edges; the days of bars that are shifted within their day."""
    middles, edges = ([words.moment(place(extent)) for extent in extents] for place in (lambda extent: sum(extent) / 2, min))
    whole = [moments for moments in (middles, edges) if not any(map(_since_midnight, moments))]
    if whole:
        firsts = [moments for moments in whole if all(moment.day == 1 for moment in moments)]
        return [moment.date().isoformat() for moment in (firsts or whole)[0]]
    aside = {_since_midnight(moment) for moment in middles}
    if len(aside) == 1 and len(middles) > 1 and aside != {_DAY / 2}:
        return [(moment + _DAY / 2).date().isoformat() for moment in middles]
    return [moment.isoformat() for moment in middles]


def _since_midnight(moment: dt.datetime) -> dt.timedelta:
    return moment.replace(tzinfo=None) - dt.datetime.combine(moment.date(), dt.time())
