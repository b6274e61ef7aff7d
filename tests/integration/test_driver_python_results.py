"""Results of the Python driver: frames, figures with their chart data, images, html and others, as official clients read them."""

from __future__ import annotations

import base64
import math
from typing import Any

import pytest
from e2b_code_interpreter.charts import _deserialize_chart

from framework.driver_root import DriverProcess

PNG = b"\x89PNG\r\n\x1a\n"
CHART = "application/vnd.e2b.chart"
DATA = "application/vnd.e2b.data"


def results(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All results' bundles; an error fails the test."""
    assert not [message for message in messages if message["op"] == "error"], messages
    return [message["data"] for message in messages if message["op"] == "result"]


def figure(python: DriverProcess, code: str) -> dict[str, Any]:
    """The one figure that ``code`` draws."""
    setup = "import matplotlib.pyplot as plt, numpy as np\n"
    (found,) = [data for data in results(python.execute(setup + code)) if "image/png" in data]
    assert base64.b64decode(found["image/png"]).startswith(PNG)
    return found


def has_no_nan(value: Any) -> bool:
    """Whether all numbers are finite."""
    if isinstance(value, dict):
        return all(map(has_no_nan, value.values()))
    if isinstance(value, list):
        return all(map(has_no_nan, value))
    return not isinstance(value, float) or math.isfinite(value)


def test_data_frame(python: DriverProcess) -> None:
    """A frame comes as text, html and data, times as ISO strings, missing values as null."""
    code = "import pandas as pd\n"
    code += "pd.DataFrame({'n': [1, 2], 'f': [1.5, None], 't': pd.to_datetime(['2024-01-01', None]), 's': ['a', None], 3: [True, False]})"
    (frame,) = results(python.execute(code))
    assert "<table" in frame["text/html"]
    assert frame[DATA] == {"n": [1, 2], "f": [1.5, None], "t": ["2024-01-01T00:00:00", None], "s": ["a", None], "3": [True, False]}


def test_figure_is_shown_once_at_the_end_of_the_cell(python: DriverProcess) -> None:
    """A figure appears without show(), and only once with show() and savefig()."""
    first = figure(python, "plt.plot([1, 2], [3, float('nan')], label='L'); plt.title('T'); plt.xlabel('time (s)'); plt.ylabel('v'); None")
    chart = first[CHART]
    assert (chart["type"], chart["title"], chart["x_label"], chart["x_unit"], chart["y_label"]) == ("line", "T", "time (s)", "s", "v")
    assert chart["elements"] == [{"label": "L", "points": [[1.0, 3.0], [2.0, None]]}]
    assert has_no_nan(chart)
    figure(python, "plt.plot([1]); plt.savefig('/tmp/f.png'); plt.show()")


@pytest.mark.parametrize(
    ("code", "kind", "elements"),
    [
        ("plt.scatter([1, 2], [3, 4], label='s')", "scatter", [{"label": "s", "points": [[1.0, 3.0], [2.0, 4.0]]}]),
        (
            "plt.bar(['a', 'b'], [3, 3], label='g')",
            "bar",
            [{"label": "a", "group": "g", "value": 3.0}, {"label": "b", "group": "g", "value": 3.0}],
        ),
        (
            "plt.barh(['a', 'b'], [1, 2], label='g')",
            "bar",
            [{"label": "a", "group": "g", "value": 1.0}, {"label": "b", "group": "g", "value": 2.0}],
        ),
        (
            "plt.pie([1, 3], labels=['p', 'q'])",
            "pie",
            [{"label": "p", "angle": 90.0, "radius": 1.0}, {"label": "q", "angle": 270.0, "radius": 1.0}],
        ),
    ],
)
def test_chart_data(python: DriverProcess, code: str, kind: str, elements: list[Any]) -> None:
    """The elements of each kind of chart are those that were drawn."""
    chart = figure(python, code + "\nNone")[CHART]
    assert chart["type"] == kind
    assert chart["elements"] == elements
    parsed = _deserialize_chart(chart)
    assert parsed is not None
    assert parsed.type.value == kind


@pytest.mark.parametrize("options", ["", "patch_artist=True", "orientation='horizontal'"])
def test_box_plots(python: DriverProcess, options: str) -> None:
    """Box plots give their quartiles, whiskers and outliers, filled or not, upright or lying."""
    chart = figure(python, f"plt.boxplot([[1, 2, 3, 4, 30], [2, 3, 4, 5, 6]], {options})\nNone")[CHART]
    assert chart["type"] == "box_and_whisker"
    first, second = chart["elements"]
    assert {key: first[key] for key in ("label", "min", "first_quartile", "median", "third_quartile", "max", "outliers")} == {
        "label": "1",
        "min": 1.0,
        "first_quartile": 2.0,
        "median": 3.0,
        "third_quartile": 4.0,
        "max": 4.0,
        "outliers": [30.0],
    }
    assert (second["min"], second["max"], second["outliers"]) == (2.0, 6.0, [])
    assert _deserialize_chart(chart) is not None


def test_several_axes_and_unknown_kinds(python: DriverProcess) -> None:
    """Several Axes are a superchart; what cannot be read is a chart of unknown type, never an empty object."""
    chart = figure(python, "f, ax = plt.subplots(1, 2); ax[0].plot([1, 2]); ax[1].imshow([[1, 2]]); f.suptitle('S')\nNone")[CHART]
    assert (chart["type"], chart["title"]) == ("superchart", "S")
    assert [one["type"] for one in chart["elements"]] == ["line", "unknown"]
    assert _deserialize_chart(chart) is not None
    assert figure(python, "plt.contourf([[1, 2], [3, 4]])\nNone")[CHART]["type"] == "unknown"


def test_dates_and_log_scales(python: DriverProcess) -> None:
    """Dates are ISO strings on a datetime scale; log axes say so."""
    chart = figure(python, "import datetime as d; plt.plot([d.date(2024, 1, 1), d.date(2024, 1, 2)], [1, 100]); plt.yscale('log')\nNone")[
        CHART
    ]
    assert (chart["x_scale"], chart["y_scale"]) == ("datetime", "log")
    assert chart["elements"][0]["points"] == [["2024-01-01", 1.0], ["2024-01-02", 100.0]]


def test_figures_make_no_noise(python: DriverProcess) -> None:
    """Reading a chart writes no warnings into the program's stderr."""
    figure(python, "plt.plot([1, 2])\nNone")
    assert b"Warning" not in python.raw_stderr


def test_images(python: DriverProcess) -> None:
    """An image is shown as a last expression, by show() and by save(); saved bytes are right too."""
    python.execute("from PIL import Image; image = Image.new('RGB', (2, 2), 'red')")
    for code in ("image", "image.show()", "image.save('/tmp/i.png')"):
        (found,) = results(python.execute(code))
        assert base64.b64decode(found["image/png"]).startswith(PNG)
    (found,) = results(python.execute("import io; b = io.BytesIO(); image.save(b, 'png'); b.getvalue()[:4]"))
    assert found["text/plain"] == "b'\\x89PNG'"


def test_plotly(python: DriverProcess) -> None:
    """A plotly figure is one bundle with html and its JSON, as a value and by show()."""
    (value,) = results(python.execute("import plotly.express as px; fig = px.bar(x=['a'], y=[1]); fig"))
    (shown,) = results(python.execute("fig.show()"))
    for found in (value, shown):
        assert "plotly" in found["text/html"]
        assert found["application/vnd.plotly.v1+json"]["data"][0]["type"] == "bar"


def test_sympy_lists_and_html(python: DriverProcess) -> None:
    """LaTeX, JSON, html, markdown, svg and others arrive under their types, in order."""
    (found,) = results(python.execute("import sympy; sympy.sqrt(8)"))
    assert found["text/latex"] == "$\\displaystyle 2 \\sqrt{2}$"
    (found,) = results(python.execute("{'a': [1, float('nan')]}"))
    assert found["application/json"] == {"a": [1, None]}
    code = "from IPython.display import *\ndisplay(HTML('<b>h</b>'), Markdown('# m'), SVG('<svg/>'), Javascript('1'), Latex('$x$'))"
    kinds = ["text/html", "text/markdown", "image/svg+xml", "application/javascript", "text/latex"]
    assert [kind for data, kind in zip(results(python.execute(code)), kinds, strict=True) if kind in data] == kinds


def test_displays_that_are_updated(python: DriverProcess) -> None:
    """An update of a display is one more result; clearing takes nothing back and breaks nothing."""
    code = "from IPython.display import clear_output\n"
    code += "handle = display('one', display_id=True); handle.update('two'); clear_output(); display('three')"
    assert [data["text/plain"] for data in results(python.execute(code))] == ["'one'", "'two'", "'three'"]


def test_displays_come_in_order_with_output(python: DriverProcess) -> None:
    """A display comes after what was printed before it, and main marks the value only."""
    messages = python.execute("display('shown')\n'value'")
    assert [(message["data"]["text/plain"], message["main"]) for message in messages[:-1]] == [("'shown'", False), ("'value'", True)]


def test_broken_representations(python: DriverProcess) -> None:
    """A value whose representation fails is an error or a text, and the kernel lives on."""
    python.execute("class Bad:\n    def __repr__(self): raise ValueError('no repr')\nBad()")
    python.execute("class Html:\n    def _repr_html_(self): return 5\nHtml()")
    assert results(python.execute("1"))[0]["text/plain"] == "1"
