# End of every step: caches go, the directories that apt-get and pip expect stay.
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/debconf/*-old /var/cache/apt/*.bin /var/lib/dpkg/*-old /var/log/apt/* /var/log/dpkg.log /var/log/alternatives.log
rm -rf /root/.cache /root/.npm /tmp/* /var/tmp/*
rm -rf /.build
