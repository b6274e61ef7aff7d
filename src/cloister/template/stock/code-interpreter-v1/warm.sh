# Text in plots is drawn with the CJK font where the one that was asked for lacks a glyph.
packages=/usr/local/lib/python3.13/dist-packages
runuser -u user -- patch --quiet --fuzz=0 --no-backup-if-mismatch -p1 -d "$packages" < /.build/matplotlib.patch
runuser -u user -- cp /.build/cjk_fonts.py "$packages/matplotlib/_cjk_fonts.py"
runuser -u user -- python3 -m compileall -q -j 2 "$packages" || true
# The font list that matplotlib makes at first use costs seconds: make it now, for root and for `user`, with the CJK fonts in it.
for account in root user; do
    runuser -u "$account" -- env HOME="$(getent passwd "$account" | cut -d: -f6)" MPLBACKEND=agg python3 - <<'PY'
import warnings

import matplotlib.font_manager as fonts
import matplotlib.pyplot as plt
import numba, numpy as np

assert any("CJK" in font.name for font in fonts.fontManager.ttflist), "matplotlib finds no CJK font"
warnings.simplefilter("error")  # a missing glyph is one
plt.style.use("seaborn-v0_8")
plt.plot(np.arange(3))
plt.title("\u65e5\u672c\u8a9e")
plt.savefig("/dev/null", format="png")
assert numba.njit(lambda x: x + 1)(1) == 2
PY
done
python3 -m pip check
