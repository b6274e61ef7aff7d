# Download the packages of /.build/packages and what they need. Online, with the host's apt configuration; nothing is installed.
exec 3> >(exec cat)  # apt makes its status descriptor non-blocking, which must not be the log that maintainer scripts write to
apt-get -q -o Acquire::Retries=3 update
xargs apt-get -q -y --no-install-recommends --download-only -o Acquire::Retries=3 -o APT::Status-Fd=3 install < /.build/packages
exec 3>&-
