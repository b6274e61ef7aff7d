"""Chinese, Japanese and Korean text in plots: drawn in every usual style, as its own glyphs, and without warnings.

Whether text is drawn is seen in the pixels: a character must look different from the box of a missing glyph and from other characters.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2b_code_interpreter import Sandbox

from framework.inside import shell
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]

CHARACTERS = "中国语日本語か한글"
LOOK = f"""
import itertools, warnings
import numpy as np
import matplotlib.pyplot as plt

def image(text, **how):
    figure = plt.figure(figsize=(1.2, 0.6), dpi=60)
    figure.text(0.1, 0.3, text, fontsize=20, **how)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba()).tobytes()
    plt.close(figure)
    return pixels

def look(style, texts={CHARACTERS!r}, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        box = image("\\u0378", **how)
    seen = [image(text, **how) for text in texts]
    assert box not in seen and len(set(seen)) == len(seen), style
"""
STYLES = """
import io
import matplotlib
import seaborn as sns
warnings.simplefilter("always")
look("as it comes")
look("bold", weight="bold")
for name in ("SimHei", "Noto Sans CJK SC"):
    look(f"fontname {name}", fontname=name)
    look(f"fontproperties {name}", fontproperties=name)
for setting in ({}, {"style": "whitegrid", "font": "SimHei"}, {"font_scale": 1.5}):
    sns.set_theme(**setting)
    look(f"seaborn {setting}")
    sns.reset_defaults()
    look("reset_defaults")
sns.reset_orig()
look("reset_orig")
for style in ("ggplot", "classic", "fivethirtyeight", *(one for one in plt.style.available if one.startswith("seaborn"))):
    with plt.style.context(style):
        look(style)
families = ["sans-serif", "serif", "monospace", "SimHei", "SimSun", "Microsoft YaHei", "MS Gothic", "Hiragino Sans", "Malgun Gothic", "NanumGothic"]
for family in [*families, ["SimHei", "DejaVu Sans"]]:
    plt.rcdefaults()
    plt.rcParams["font.family"] = family
    look(family)
lists = (
    ["SimHei", "Microsoft YaHei", "WenQuanYi Micro Hei", "Arial Unicode MS", "Noto Sans CJK SC"],
    ["SimHei", *plt.rcParams["font.sans-serif"]],
    ["Yu Gothic"],
)
for sans in lists:
    for minus in (True, False):
        plt.rcdefaults()
        matplotlib.rc("font", family="sans-serif")
        plt.rcParams.update({"font.sans-serif": sans, "axes.unicode_minus": minus})
        look(sans)
        figure, axes = plt.subplots()
        axes.plot([-2, 1], label="标签")
        axes.legend(title="图例")
        figure.canvas.draw()
        plt.close(figure)
look("minus", "\\u2212-中")
for fonts in ("dejavusans", "cm", "stix"):
    plt.rcdefaults()
    plt.rcParams["mathtext.fontset"] = fonts
    look(fonts, ("面 $x^2$", "积 $x^2$", "$\\\\mathrm{速度}$", "$\\\\mathrm{面积}$"))
for form in ("svg", "pdf"):
    plt.figure().suptitle("面积 $m^2$ 한글")
    plt.savefig(io.BytesIO(), format=form)
plt.close("all")
plt.rcdefaults()
print("drawn")
"""
UNKNOWN = """
plt.rcParams["font.family"] = ["No Such Font", "DejaVu Sans"]
for _ in range(3):
    image("a中b")
plt.rcdefaults()
"""
R = f"""
library(ggplot2)
characters <- strsplit("{CHARACTERS}\\u0378", "")[[1]]
for (i in seq_along(characters)) {{
  png(sprintf("/tmp/look/base-%d.png", i), 60, 60); par(mar = c(0, 0, 0, 0)); plot.new(); text(0.5, 0.5, characters[i], cex = 2, family = "SimHei"); dev.off()
  plot <- ggplot() + annotate("text", 0, 0, label = characters[i], size = 12) + theme_void(base_family = "SimHei")
  ggsave(sprintf("/tmp/look/ggplot-%d.png", i), plot, width = 1, height = 1, dpi = 60)
}}
"""
JAVA = f"""
import java.awt.*;
import java.awt.image.BufferedImage;
import javax.imageio.ImageIO;
String[] characters = "{CHARACTERS}\\u0378".split("");
for (String font : new String[]{{"SimHei", "SansSerif"}})
    for (int i = 0; i < characters.length; i++) {{
        BufferedImage image = new BufferedImage(60, 60, BufferedImage.TYPE_INT_RGB);
        Graphics2D graphics = image.createGraphics();
        graphics.setFont(new Font(font, Font.PLAIN, 30));
        graphics.drawString(characters[i], 10, 40);
        ImageIO.write(image, "png", new java.io.File("/tmp/look/java-" + font + "-" + i + ".png"));
    }}
"""
COMPARE = """
import collections, glob
from PIL import Image
seen = collections.defaultdict(list)
for path in sorted(glob.glob("/tmp/look/*.png")):
    seen[path.rpartition("-")[0]].append(Image.open(path).convert("RGBA").tobytes())
for kind, images in seen.items():
    print(kind.rpartition("/")[2], len(images), len(set(images)))
"""


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Iterator[Sandbox]:
    """One sandbox for all."""
    made = Sandbox.create(timeout=900, **server.sdk)
    yield made
    made.kill()


def test_matplotlib_draws_cjk_text_in_every_style(sandbox: Sandbox) -> None:
    """In seaborn's themes, style sheets, families of other systems and formulas, in a cell, with nothing on stderr."""
    done = sandbox.run_code(LOOK + STYLES, timeout=200)
    assert done.error is None, done.error
    assert ("".join(done.logs.stdout), "".join(done.logs.stderr)) == ("drawn\n", "")


def test_scripts_draw_cjk_text_too(sandbox: Sandbox) -> None:
    """A program of the ordinary user, without our driver: a style and a family, nothing on stderr."""
    program = (
        LOOK
        + 'plt.style.use("seaborn-v0_8")\nlook("style")\nplt.rcParams["font.sans-serif"] = ["SimHei"]\nlook("family")\nprint("drawn")\n'
    )
    sandbox.files.write("/tmp/look.py", program)
    done = shell(sandbox, "python3 /tmp/look.py 2>&1", user="user")
    assert done.text == "drawn", done.text


def test_a_font_that_is_missing_is_named_once(sandbox: Sandbox) -> None:
    """Another family that is not there gives one line, not one at each draw."""
    done = sandbox.run_code(LOOK + UNKNOWN, timeout=60)
    assert "".join(done.logs.stderr).count("No Such Font") == 1, done.logs.stderr


def test_r_and_java_draw_cjk_text(sandbox: Sandbox) -> None:
    """Base graphics, ggplot2 and AWT, with a family that is not installed too."""
    shell(sandbox, "mkdir -p -m 777 /tmp/look")
    for language, code in (("r", R), ("java", JAVA)):
        done = sandbox.run_code(code, language=language, timeout=120)
        assert done.error is None, done.error
    seen = "".join(sandbox.run_code(COMPARE, timeout=60).logs.stdout).split()
    many = str(len(CHARACTERS) + 1)
    assert seen == [word for kind in ("base", "ggplot", "java-SansSerif", "java-SimHei") for word in (kind, many, many)]
