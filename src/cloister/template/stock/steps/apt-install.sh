# Install what apt-fetch.sh downloaded. Offline and without the host layer, so that nothing of the host's configuration can stay behind.
exec 3> >(exec cat)  # apt makes its status descriptor non-blocking, which must not be the log that maintainer scripts write to
xargs apt-get -q -y --no-install-recommends --no-download -o APT::Status-Fd=3 -o Dpkg::Use-Pty=0 install < /.build/packages
exec 3>&-
