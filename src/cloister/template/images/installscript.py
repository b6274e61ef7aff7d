"""Shell scripts that install a program from a package of npm's registry, in the places where its official image has it.

The packages contain the programs as their makers built them. No install script of theirs runs.
"""

from __future__ import annotations

from cloister.template.images.equivalents import ImageEquivalent

__all__ = ["install_script"]

_START = """set -euo pipefail
work=$(mktemp -d)
cd "$work"
"""
_FETCH = """npm pack --silent '{package}@{version}' > packed
tar -xzf "$(tail -n 1 packed)" --no-same-owner
rm -rf "$(tail -n 1 packed)" /root/.npm
"""
_NODE = """mv package node
{fetch_npm}chmod 755 node/bin/node
mv -f node/bin/node /usr/local/bin/node
cp -r node/include node/share /usr/local/ 2> /dev/null || true
ln -sf node /usr/local/bin/nodejs
/usr/local/bin/node --version
mkdir -p /usr/local/lib/node_modules /usr/local/etc
mv package /usr/local/lib/node_modules/npm
chmod 755 /usr/local/lib/node_modules/npm/bin/np[mx]-cli.js
ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
ln -s ../lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx
ln -s /etc/npmrc /usr/local/etc/npmrc
/usr/local/bin/npm --version
"""
_BUN = """install -m 755 package/bin/bun /usr/local/bin/bun
ln -sf bun /usr/local/bin/bunx
/usr/local/bin/bun --version
"""
_CLEAN = """cd /
rm -rf "$work" /root/.npm
"""


def install_script(equivalent: ImageEquivalent) -> str:
    """The script that installs the equivalent's program. It needs bash, root and the internet."""
    fetch = _FETCH.format(package=equivalent.package, version=equivalent.version)
    node = _NODE.format(fetch_npm=_FETCH.format(package="npm", version=equivalent.npm))
    return _START + fetch + {"node": node, "bun": _BUN}[equivalent.program] + _CLEAN
