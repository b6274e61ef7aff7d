runuser -u user -- python3 -m compileall -q -j 2 /usr/local/lib/python3.13/dist-packages || true
find /usr/local/lib/python3.13/dist-packages -name tests -path '*/tests' -type d -prune -o -name '*.so' -print > /dev/null
# The font list that matplotlib makes at first use costs seconds: make it now, for root and for `user`, with the CJK fonts in it.
for account in root user; do
    runuser -u "$account" -- env HOME="$(getent passwd "$account" | cut -d: -f6)" MPLBACKEND=agg python3 - <<'PY'
import matplotlib.font_manager as fonts
import matplotlib.pyplot as plt
import numba, numpy as np

assert any("CJK" in font.name for font in fonts.fontManager.ttflist), "matplotlib finds no CJK font"
plt.plot(np.arange(3))
plt.savefig("/dev/null", format="png")
assert numba.njit(lambda x: x + 1)(1) == 2
PY
done
python3 -m pip check
