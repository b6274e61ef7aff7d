# pip installs for everybody without further options (PEP 668), as in the official image of Python; a diversion survives upgrades.
mkdir -p /usr/share/cloister
dpkg-divert --quiet --package cloister --divert /usr/share/cloister/EXTERNALLY-MANAGED --no-rename --add /usr/lib/python3.11/EXTERNALLY-MANAGED
rm -f /usr/lib/python3.11/EXTERNALLY-MANAGED
python --version
