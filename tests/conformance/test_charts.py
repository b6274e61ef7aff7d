"""The charts of results: what the official SDK's chart classes say of figures drawn by matplotlib, pandas and seaborn."""

from __future__ import annotations

from typing import Any

import pytest
from e2b_code_interpreter import Sandbox
from e2b_code_interpreter.charts import BarChart, BoxAndWhiskerChart, LineChart, PieChart, PointChart, ScatterChart, SuperChart

from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]

SETUP = """
import datetime as dt
import matplotlib.pyplot as plt, numpy as np, pandas as pd, seaborn as sns
days = [dt.date(2024, 1, 1), dt.date(2024, 1, 2)]
stamps = pd.date_range("2024-01-01", periods=2)
two = pd.DataFrame({"v": [1, 2], "w": [3, 4]}, index=["p", "q"])
hues = pd.DataFrame({"x": list("aabb"), "y": [1, 2, 3, 4], "h": list("uvuv")})
"""
DAYS = [("2024-01-01", 1.0), ("2024-01-02", 2.0)]
MIDNIGHTS = [("2024-01-01T00:00:00", 1.0), ("2024-01-02T00:00:00", 2.0)]
FOUR = [("p", "v", 1.0), ("q", "v", 2.0), ("p", "w", 3.0), ("q", "w", 4.0)]
UNKNOWN: tuple[str, list[Any]] = ("unknown", [])


def bars(group: str, *pairs: tuple[str, float]) -> list[tuple[str, str, float]]:
    """The bars of one group."""
    return [(label, group, value) for label, value in pairs]


CASES: dict[str, tuple[str, tuple[str, list[Any]]]] = {
    # bars: dates, categories, places; groups, stacks, directions, errors
    "bars over dates": ("plt.bar(days, [1, 2], label='g')", ("bar", bars("g", *DAYS))),
    "bars over timestamps": ("plt.bar(stamps, [1, 2])", ("bar", bars("Group 0", *DAYS))),
    "horizontal bars over dates": ("plt.barh(days, [1, 2])", ("bar", bars("Group 0", *DAYS))),
    "bars over hours": (
        "plt.bar(pd.date_range('2024-01-01 05:00', periods=2, freq='h'), [1, 2], width=0.02)",
        ("bar", bars("Group 0", ("2024-01-01T05:00:00", 1.0), ("2024-01-01T06:00:00", 2.0))),
    ),
    "bars aside of dates": (
        "shift = pd.Timedelta(hours=5); plt.bar(stamps - shift, [1, 2], 0.4, label='a'); plt.bar(stamps + shift, [1, 2], 0.4, label='b')",
        ("bar", bars("a", *DAYS) + bars("b", *DAYS)),
    ),
    "bars from the first of months": (
        "plt.bar(pd.date_range('2024-01-01', periods=2, freq='MS'), [1, 2], width=20, align='edge')",
        ("bar", bars("Group 0", ("2024-01-01", 1.0), ("2024-02-01", 2.0))),
    ),
    "bars with errors": ("plt.bar(['a', 'b'], [1, 2], yerr=[.1, .2], capsize=3, label='e')", ("bar", bars("e", ("a", 1.0), ("b", 2.0)))),
    "stacked bars": (
        "plt.bar(['p', 'q'], [1, 2], label='v'); plt.bar(['p', 'q'], [3, 4], bottom=[1, 2], label='w'); plt.legend()",
        ("bar", FOUR),
    ),
    "grouped bars": (
        "x = np.arange(2); plt.bar(x - .2, [1, 2], .4, label='v'); plt.bar(x + .2, [3, 4], .4, label='w'); plt.xticks(x, ['p', 'q'])",
        ("bar", FOUR),
    ),
    "bars of which some have ticks": (
        "plt.bar(range(3), [1, 2, 3]); plt.xticks([0, 2], ['first', 'last'])",
        ("bar", bars("Group 0", ("first", 1.0), ("1", 2.0), ("last", 3.0))),
    ),
    "negative bars": ("plt.bar(['a'], [-1.5]); plt.axhline(0); plt.axvspan(0, 1)", ("bar", bars("Group 0", ("a", -1.5)))),
    "histogram": ("plt.hist([1, 1, 2, 3], bins=2)", ("bar", bars("Group 0", ("1.5", 2.0), ("2.5", 2.0)))),
    "pandas bars": ("two.plot.bar()", ("bar", FOUR)),
    "pandas stacked lying bars": ("two.plot.barh(stacked=True)", ("bar", FOUR)),
    "pandas bars over dates": ("pd.Series([1, 2], index=stamps, name='s').plot.bar(legend=True)", ("bar", bars("s", *DAYS))),
    "seaborn bars by hue": (
        "sns.barplot(hues, x='x', y='y', hue='h')",
        ("bar", [("a", "u", 1.0), ("b", "u", 3.0), ("a", "v", 2.0), ("b", "v", 4.0)]),
    ),
    "seaborn bars with errors": ("sns.barplot(hues, x='x', y='y')", ("bar", bars("Group 0", ("a", 1.5), ("b", 3.5)))),
    "seaborn counts": ("sns.countplot(x=list('aab'))", ("bar", bars("Group 0", ("a", 2.0), ("b", 1.0)))),
    "seaborn histogram": ("sns.histplot([1, 2, 2, 3], bins=2, kde=True)", ("bar", bars("Group 0", ("1.5", 1.0), ("2.5", 3.0)))),
    # lines
    "lines with a legend": (
        "plt.plot([1, 2], [3, 3], label='a'); plt.plot([1, 2], [4, float('nan')], '--', label='b'); plt.legend(); plt.axhline(3); plt.axvline(1)",
        ("line", [("a", [(1.0, 3.0), (2.0, 3.0)]), ("b", [(1.0, 4.0), (2.0, None)])]),
    ),
    "line over dates": ("plt.plot(days, [1, 2])", ("line", [("Line 0", DAYS)])),
    "line over categories": ("plt.plot(['a', 'b'], [1, 2])", ("line", [("Line 0", [("a", 1.0), ("b", 2.0)])])),
    "steps": ("plt.step([1, 2], [3, 4], label='s')", ("line", [("s", [(1.0, 3.0), (2.0, 4.0)])])),
    "line with errors": ("plt.errorbar([1, 2], [3, 4], yerr=.1, capsize=2, label='e')", ("line", [("e", [(1.0, 3.0), (2.0, 4.0)])])),
    "line in a band": (
        "plt.plot([1, 2], [3, 4], label='m'); plt.fill_between([1, 2], [2, 3], [4, 5], alpha=.2)",
        ("line", [("m", [(1.0, 3.0), (2.0, 4.0)])]),
    ),
    "stems": ("plt.stem([1, 2], [3, 4], label='s')", ("line", [("s", [(1.0, 3.0), (2.0, 4.0)])])),
    "pandas lines": (
        "two.reset_index(drop=True).plot()",
        ("line", [("v", [(0.0, 1.0), (1.0, 2.0)]), ("w", [(0.0, 3.0), (1.0, 4.0)])]),
    ),
    "pandas line over dates": ("pd.Series([1, 2], index=stamps, name='s').plot()", ("line", [("s", MIDNIGHTS)])),
    "pandas line over months": (
        "pd.Series([1, 2], index=pd.period_range('2024-01', periods=2, freq='M'), name='s').plot()",
        ("line", [("s", [("2024-01-01T00:00:00", 1.0), ("2024-02-01T00:00:00", 2.0)])]),
    ),
    "pandas area": (
        "two.reset_index(drop=True).plot.area()",
        ("line", [("v", [(0.0, 1.0), (1.0, 2.0)]), ("w", [(0.0, 4.0), (1.0, 6.0)])]),
    ),
    "seaborn lines by hue": (
        "sns.lineplot(hues.assign(x=[1, 1, 2, 2]), x='x', y='y', hue='h')",
        ("line", [("u", [(1.0, 1.0), (2.0, 3.0)]), ("v", [(1.0, 2.0), (2.0, 4.0)])]),
    ),
    "seaborn line with its band": (
        "sns.lineplot(hues.assign(x=[1, 1, 2, 2]), x='x', y='y')",
        ("line", [("Line 0", [(1.0, 1.5), (2.0, 3.5)])]),
    ),
    # points
    "points": ("plt.scatter([1, 2], [3, 4], label='s')", ("scatter", [("s", [(1.0, 3.0), (2.0, 4.0)])])),
    "points over dates": ("plt.scatter(stamps, [1, 2], label='s')", ("scatter", [("s", MIDNIGHTS)])),
    "points over categories": ("plt.scatter(['a', 'b'], [1, 2], label='s')", ("scatter", [("s", [("a", 1.0), ("b", 2.0)])])),
    "pandas points": (
        "two.plot.scatter(x='v', y='w', c='v', colormap='viridis', label='s')",
        ("scatter", [("s", [(1.0, 3.0), (2.0, 4.0)])]),
    ),
    "seaborn points by hue": (
        "sns.scatterplot(hues.assign(x=range(4)), x='x', y='y', hue='h')",
        ("scatter", [("u", [(0.0, 1.0), (2.0, 3.0)]), ("v", [(1.0, 2.0), (3.0, 4.0)])]),
    ),
    # pies and boxes
    "pie": (
        "plt.pie([30, 70], labels=['a', 'b'], autopct='%1.1f%%', explode=[0, .1], shadow=True)",
        ("pie", [("a", 108.0, 1.0), ("b", 252.0, 1.0)]),
    ),
    "pie with a legend": (
        "wedges, _ = plt.pie([30, 70], wedgeprops={'width': .4}); plt.legend(wedges, ['a', 'b'])",
        ("pie", [("a", 108.0, 1.0), ("b", 252.0, 1.0)]),
    ),
    "pandas pie": ("pd.Series([1, 3], index=['a', 'b']).plot.pie()", ("pie", [("a", 90.0, 1.0), ("b", 270.0, 1.0)])),
    "boxes": (
        "plt.boxplot([[1, 2, 3, 4, 30], [2, 3, 4]], tick_labels=['a', 'b'])",
        ("box_and_whisker", [("a", 1.0, 2.0, 3.0, 4.0, 4.0, [30.0]), ("b", 2.0, 2.5, 3.0, 3.5, 4.0, [])]),
    ),
    "pandas boxes": (
        "two.plot.box()",
        ("box_and_whisker", [("v", 1.0, 1.25, 1.5, 1.75, 2.0, []), ("w", 3.0, 3.25, 3.5, 3.75, 4.0, [])]),
    ),
    "seaborn boxes": (
        "sns.boxplot(hues, x='x', y='y')",
        ("box_and_whisker", [("a", 1.0, 1.25, 1.5, 1.75, 2.0, []), ("b", 3.0, 3.25, 3.5, 3.75, 4.0, [])]),
    ),
    # what the classes have no kind for
    "picture": ("plt.imshow([[1, 2]])", UNKNOWN),
    "heat map": ("sns.heatmap([[1, 2], [3, 4]], annot=True)", UNKNOWN),
    "violins": ("plt.violinplot([[1, 2, 3.]])", UNKNOWN),
    "seaborn violins": ("sns.violinplot(hues, x='x', y='y')", UNKNOWN),
    "contours": ("plt.contourf([[1, 2], [3, 4]]); plt.colorbar()", UNKNOWN),
    "area alone": ("plt.fill_between([1, 2], [1, 2])", UNKNOWN),
    "points with a fit": ("sns.regplot(x=[1, 2, 3], y=[1, 2, 4])", UNKNOWN),
    "three dimensions": ("plt.figure().add_subplot(projection='3d').plot([1, 2], [1, 2], [1, 2])", UNKNOWN),
    "hexagons": ("two.plot.hexbin(x='v', y='w', gridsize=3)", UNKNOWN),
}
SUPER = """
figure, axes = plt.subplots(2, 2, sharex=True)
axes[0, 0].plot([1, 2]); axes[0, 1].scatter([1], [2], label="s"); axes[1, 0].imshow([[1]]); axes[1, 0].set_title("I")
figure.suptitle("Four"); plt.show()
figure, left = plt.subplots(); left.bar(["a", "b"], [1, 2]); left.twinx().plot(["a", "b"], [10, 20], label="r"); plt.show()
plt.plot([1, 100], [-1, 10]); plt.xscale("log"); plt.yscale("symlog"); plt.title("L", loc="left"); plt.xlabel("f (Hz)"); plt.ylabel("a [dB]"); plt.show()
plt.scatter(stamps, ["a", "b"]); plt.show()
plt.barh(["a", "b"], [1, 2]); plt.xlabel("n (pieces)"); plt.ylabel("what"); plt.show()
"""


def told(chart: Any) -> tuple[str, list[Any]]:
    """The kind and the elements of a chart, by the attributes of the SDK's classes."""
    kind = chart.type.value
    if isinstance(chart, PointChart):
        return kind, [(one.label, one.points) for one in chart.elements]
    if isinstance(chart, BarChart):
        return kind, [(one.label, one.group, one.value) for one in chart.elements]
    if isinstance(chart, PieChart):
        return kind, [(one.label, one.angle, one.radius) for one in chart.elements]
    if isinstance(chart, BoxAndWhiskerChart):
        boxes = chart.elements
        return kind, [(b.label, b.min, b.first_quartile, b.median, b.third_quartile, b.max, b.outliers) for b in boxes]
    return kind, chart.elements


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Any:
    """One sandbox, the libraries imported."""
    made = Sandbox.create(timeout=900, **server.sdk)
    assert made.run_code(SETUP, timeout=60).error is None
    yield made
    made.kill()


def test_every_kind_of_plot_has_its_chart(sandbox: Sandbox) -> None:
    """Kind, title, labels and values of bars, lines, points, pies and boxes, however they were drawn; other plots are unknown ones with their title."""
    code = "".join(f"{draw}; plt.title({name!r}); plt.show()\n" for name, (draw, _) in CASES.items())
    done = sandbox.run_code(code, timeout=200)
    assert done.error is None, done.error
    assert "".join(done.logs.stderr) == ""
    charts = [result.chart for result in done.results]
    assert [chart.title for chart in charts if chart is not None] == list(CASES)
    assert {name: told(chart) for name, chart in zip(CASES, charts, strict=True)} == {name: wanted for name, (_, wanted) in CASES.items()}


def test_several_axes_scales_and_units(sandbox: Sandbox) -> None:
    """Subplots and second axes are superchart elements; scales, ticks, labels and units are those of the axes."""
    done = sandbox.run_code(SUPER, timeout=60)
    assert done.error is None, done.error
    four, twin, scales, named, lying = (result.chart for result in done.results)
    assert isinstance(four, SuperChart)
    assert (four.title, [told(one) for one in four.elements]) == (
        "Four",
        [("line", [("Line 0", [(0.0, 1.0), (1.0, 2.0)])]), ("scatter", [("s", [(1.0, 2.0)])]), UNKNOWN],
    )
    assert (four.elements[0].x_scale.value, four.elements[2].title) == ("linear", "I")
    assert isinstance(twin, SuperChart)
    assert [told(one) for one in twin.elements] == [
        ("bar", bars("Group 0", ("a", 1.0), ("b", 2.0))),
        ("line", [("r", [("a", 10.0), ("b", 20.0)])]),
    ]
    assert isinstance(scales, LineChart)
    assert (scales.x_scale.value, scales.y_scale.value, scales.title) == ("log", "symlog", "L")
    assert (scales.x_label, scales.x_unit, scales.y_label, scales.y_unit) == ("f (Hz)", "Hz", "a [dB]", "dB")
    assert isinstance(named, ScatterChart)
    assert (named.x_scale.value, named.y_scale.value, named.y_tick_labels) == ("datetime", "categorical", ["a", "b"])
    assert str(named.x_ticks[0]).startswith("2024-01-01T00:00:00")
    assert isinstance(lying, BarChart)
    assert (told(lying), lying.x_label, lying.y_label, lying.y_unit) == (
        ("bar", bars("Group 0", ("a", 1.0), ("b", 2.0))), "what", "n (pieces)", "pieces",
    )  # fmt: skip
