# Download all updates of the distribution. Online, with the host's apt configuration; nothing is installed.
exec 3> >(exec cat)  # as in apt-fetch.sh
apt-get -q -o Acquire::Retries=3 --error-on=any update
apt-get -q -y --no-install-recommends --download-only -o Acquire::Retries=3 -o APT::Status-Fd=3 dist-upgrade
exec 3>&-
