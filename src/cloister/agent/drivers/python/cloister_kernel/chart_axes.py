"""The parts of a chart that come from its Axes: titles, labels with units, scales, ticks, and the form of values.

Values of a date axis are ISO times, of a category axis names, of all others numbers. It only reads matplotlib's and pandas' objects.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from typing import Any

__all__ = ["AxisWords", "colour_of", "describe", "named_by_colour", "own_name", "point_chart", "title_of"]

_UNIT = re.compile(r"\s\((.*?)\)|\[(.*?)\]")


def title_of(axes: Any) -> str | None:
    """The title, at whatever place above the Axes."""
    return next((text for place in ("center", "left", "right") if (text := axes.get_title(loc=place))), None)


def describe(axes: Any, kind: str) -> dict[str, Any]:
    """The fields of every chart with two axes; its elements are empty."""
    chart: dict[str, Any] = {"type": kind, "title": title_of(axes), "elements": []}
    for letter, label in (("x", axes.get_xlabel()), ("y", axes.get_ylabel())):
        unit = _UNIT.search(label)
        chart[f"{letter}_label"] = label or None
        chart[f"{letter}_unit"] = (unit[1] or unit[2]) if unit else None
    return chart


def point_chart(axes: Any, kind: str) -> dict[str, Any]:
    """The same for points: with ticks, their labels and the scale of each axis."""
    chart = describe(axes, kind)
    for letter, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        words = AxisWords(axis)
        labels = [label.get_text() for label in axis.get_ticklabels()]
        chart[f"{letter}_ticks"] = words.ticks()
        chart[f"{letter}_tick_labels"] = labels
        chart[f"{letter}_scale"] = words.scale(labels)
    return chart


class AxisWords:
    """The values of one axis in the form of chart data."""

    def __init__(self, axis: Any) -> None:
        from matplotlib.category import StrCategoryConverter  # only where a figure has loaded it
        from matplotlib.dates import DateConverter, _SwitchableDateConverter  # only where a figure has loaded it

        self.axis = axis
        converter = axis.get_converter() if hasattr(axis, "get_converter") else axis.converter
        self.freq = getattr(axis, "freq", None)
        """For pandas' plots over time: the axis counts periods."""
        self.dates = self.freq is None and isinstance(converter, (DateConverter, _SwitchableDateConverter))
        self.categories: dict[float, str] = {}
        if isinstance(converter, StrCategoryConverter):
            mapping = getattr(axis.get_units(), "_mapping", {})
            self.categories = {float(place): str(name) for name, place in mapping.items()}

    def scale(self, labels: list[str]) -> str:
        """The scale's name; categorical if ticks at 0, 1, 2, … have labels other than these numbers."""
        if self.dates or self.freq is not None:
            return "datetime"
        name = str(self.axis.get_scale())
        if name != "linear" or self.categories:
            return "categorical" if self.categories else name
        places = list(zip(self.axis.get_ticklocs(), labels, strict=False))
        named = places and all(tick == number and str(number) != label for number, (tick, label) in enumerate(places))
        return "categorical" if named else name

    def ticks(self) -> list[Any]:
        """The ticks: times on date axes, numbers on all others."""
        places = [float(tick) for tick in self.axis.get_ticklocs()]
        if self.dates:
            from matplotlib.dates import num2date  # only where a figure has loaded it

            return [num2date(tick).isoformat() for tick in places]
        return [self.word(tick) for tick in places] if self.freq is not None else places

    def words(self, values: Iterable[Any]) -> list[Any]:
        """The form of each value, see :meth:`word`."""
        return [self.word(value) for value in values]

    def word(self, value: Any) -> Any:
        """A time as ISO text, a category by its name, a number."""
        if isinstance(value, str):
            return value
        if hasattr(value, "to_timestamp"):  # a period of pandas
            value = value.to_timestamp()
        if type(value).__name__ == "datetime64":
            value = value.astype("datetime64[us]").item()
        if isinstance(value, (dt.date, dt.time)):
            return value.isoformat() if value == value else None  # noqa: PLR0124 - NaT is not
        if value is None:
            return None
        number = float(value)
        if number != number or not (self.dates or self.freq is not None or self.categories):  # noqa: PLR0124 - NaN is not
            return number
        return self.time(number) if not self.categories else self.categories.get(number, number)

    def time(self, number: float) -> Any:
        """A position on a date axis as ISO text."""
        if self.freq is not None:
            from pandas import Period  # only where a figure has loaded it

            return Period(ordinal=round(number), freq=self.freq).to_timestamp().isoformat()
        return self.moment(number).isoformat()

    def moment(self, number: float) -> dt.datetime:
        """A position on a date axis as a time, without a zone if the axis has none, and without the number's rounding error."""
        from matplotlib.dates import num2date  # only where a figure has loaded it

        zone = self.axis.get_units()
        zone = zone if isinstance(zone, dt.tzinfo) else None
        exact: dt.datetime = num2date(number, tz=zone or dt.UTC)
        near = exact.replace(microsecond=0) + dt.timedelta(seconds=round(exact.microsecond / 1e6))
        moment = near if abs((near - exact).total_seconds()) < 1e-4 else exact
        return moment if zone else moment.replace(tzinfo=None)


def named_by_colour(axes: Any) -> dict[tuple[float, ...], str]:
    """The legend's names of colours: seaborn names colours there, not artists. A colour with two names has none."""
    legend = axes.get_legend()
    names: dict[tuple[float, ...], str] = {}
    twice: set[tuple[float, ...]] = set()
    if legend is not None:
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=False):
            colour = colour_of(handle)
            if colour is not None:
                twice.update({colour} if colour in names else ())
                names[colour] = text.get_text()
    return {colour: name for colour, name in names.items() if colour not in twice}


def own_name(artist: Any, names: dict[tuple[float, ...], str]) -> str | None:
    """The program's label, or the legend's name of the colour."""
    label = str(artist.get_label())
    if not label.startswith("_"):
        return label
    colour = colour_of(artist)
    return names.get(colour) if colour is not None else None


def colour_of(artist: Any) -> tuple[float, ...] | None:
    """The one colour that covers most of an artist, or None."""
    from matplotlib.colors import to_rgb  # only where a figure has loaded it

    marked = hasattr(artist, "get_markerfacecolor") and artist.get_linestyle() in ("None", "none", "", " ")
    for reader in ("get_markerfacecolor",) if marked else ("get_color", "get_facecolor"):
        try:
            colour = getattr(artist, reader)()
            return tuple(round(float(part), 3) for part in to_rgb(colour[0] if getattr(colour, "ndim", 1) == 2 else colour))
        except (AttributeError, ValueError, IndexError, TypeError):
            continue
    return None
