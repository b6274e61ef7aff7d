"""The Python packages of the stock template: those of docs/packages.md, and what programs written for them rely on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b_code_interpreter import Sandbox

from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]

TABLE = Path(__file__).parents[2] / "docs" / "packages.md"


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Iterator[Sandbox]:
    """One sandbox for all."""
    made = Sandbox.create(timeout=900, **server.sdk)
    yield made
    made.kill()


def rows() -> list[tuple[str, str, str, str]]:
    """Package, module, official version and ours, as the documentation has them."""
    return re.findall(r"^\| ([\w.-]+) \| `(\w+)` \| (.+?) \| (\S+) \|$", TABLE.read_text(), re.MULTILINE)


def test_the_table_of_packages_is_true(sandbox: Sandbox) -> None:
    """Each package of the table is imported, has the version beside it, and that is the official one where there is one."""
    listed = rows()
    assert len(listed) > 35
    code = f"""
import importlib, importlib.metadata
for package, module in {[(package, module) for package, module, _, _ in listed]!r}:
    importlib.import_module(module)
    print(package, importlib.metadata.version(package))
"""
    done = sandbox.run_code(code, timeout=240)
    assert done.error is None, done.error
    found = dict(line.split() for line in "".join(done.logs.stdout).splitlines())
    assert found == {package: ours for package, _, _, ours in listed}
    for package, _, official, ours in listed:
        version = re.match(r"[\d.]+", official)
        assert version is None or f"{ours}.".startswith(f"{version[0]}."), f"{package}: {ours}, not {official}"


def test_programs_for_the_official_versions_run(sandbox: Sandbox) -> None:
    """Code that language models write for pandas 2, matplotlib 3.10, numpy 2.3 and the others works as they expect."""
    code = """
import io, warnings
import matplotlib.pyplot as plt, numpy as np, pandas as pd, seaborn as sns, xarray as xr
boxes = plt.figure().add_subplot().boxplot([[1, 2, 3], [2, 3, 9]], labels=["a", "b"], patch_artist=True)
assert len(boxes["boxes"]) == 2
plt.cm.get_cmap("viridis") if hasattr(plt.cm, "get_cmap") else plt.get_cmap("viridis")
plt.close("all")
frame = pd.DataFrame({"name": ["x", "y", None], "n": [1, 2, 3]}, index=pd.date_range("2024-01-31", periods=3, freq="ME"))
assert frame["name"].dtype == object
assert frame.index.dtype == "datetime64[ns]"
frame["n"].iloc[0] = 10
assert frame.loc[:, "n"].tolist()[1:] == [2, 3]
assert frame.groupby("name", observed=False)["n"].sum().to_dict() == {"x": 10, "y": 2}
assert frame.n.fillna(method="ffill").sum() == 15
assert frame.resample("M")["n"].sum().tolist() == [10, 2, 3]
assert pd.read_json(io.StringIO('[{"a": 1}]')).a.item() == 1
assert pd.concat([frame, frame]).shape == (6, 2)
assert repr(np.float64(1.5)) == "np.float64(1.5)" and np.trapezoid([1, 1]) == 1 and np.in1d([1], [1]).all()
assert sns.barplot(x=["a", "b"], y=[1, 2], errorbar=None).patches[1].get_height() == 2
assert float(xr.DataArray([1.0, 2.0]).mean()) == 1.5
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mean_squared_error
assert LogisticRegression(multi_class="auto", penalty="l2").fit([[0], [1]], [0, 1]).predict([[1]])[0] == 1
import cv2, plotly.express as px, spacy, gensim, soundfile
assert cv2.resize(np.zeros((4, 4, 3), np.uint8), (2, 2)).shape == (2, 2, 3)
assert px.line(x=[1, 2], y=[3, 4]).to_dict()["data"][0]["type"] == "scatter"
assert [token.text for token in spacy.blank("en")("two words")] == ["two", "words"]
assert gensim.corpora.Dictionary([["a", "b"]]).token2id == {"a": 0, "b": 1}
sound = io.BytesIO()
soundfile.write(sound, np.zeros(100, np.float32), 22050, format="WAV")
assert soundfile.read(io.BytesIO(sound.getvalue()))[1] == 22050
plt.close("all")
print("all")
"""
    done = sandbox.run_code(code, timeout=240)
    assert (done.error, "".join(done.logs.stdout)) == (None, "all\n"), done
