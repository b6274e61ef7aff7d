# Install what apt-upgrade-fetch.sh downloaded. Offline and without the host layer. Files that the template changed stay as they are.
exec 3> >(exec cat)  # as in apt-install.sh
apt-get -q -y --no-install-recommends --no-download -o APT::Status-Fd=3 -o Dpkg::Use-Pty=0 \
    -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold dist-upgrade
exec 3>&-
python3 -m compileall -q /usr/lib/python3.13 /usr/lib/python3/dist-packages -x 'lib2to3|test' || true
