# Documentation costs space and nobody reads it in a sandbox; copyright files stay.
cat > /etc/dpkg/dpkg.cfg.d/cloister <<'CFG'
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/lintian/*
path-exclude=/usr/share/locale/*
path-include=/usr/share/locale/locale.alias
CFG
find /usr/share/doc -type f ! -name copyright -delete
find /usr/share/doc -type l ! -name copyright -delete
find /usr/share/doc -type d -empty -delete
rm -rf /usr/share/man/* /usr/share/info/* /usr/share/lintian/*
find /usr/share/locale -mindepth 1 -maxdepth 1 -type d -exec rm -rf {} +

# Nothing may start a service while packages are installed: a sandbox has no init system.
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d

# Packages write alternatives links of manual pages, so their directory stays.
# pip installs for everybody without further options (PEP 668); a diversion survives upgrades of the package.
mkdir -p /usr/share/man/man1 /usr/share/cloister
dpkg-divert --quiet --package cloister --divert /usr/share/cloister/EXTERNALLY-MANAGED --no-rename --add /usr/lib/python3.13/EXTERNALLY-MANAGED
rm -f /usr/lib/python3.13/EXTERNALLY-MANAGED

python3 -m compileall -q /usr/lib/python3.13 -x 'lib2to3|test' || true

# debootstrap copies these from the host.
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' > /etc/hosts
echo cloister > /etc/hostname
: > /etc/resolv.conf
