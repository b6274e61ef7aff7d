# Second stage of the first layer: configure what the host only unpacked. Offline; every maintainer script runs here, in the sandbox.
[ -d /proc/self ] || { echo "the sandbox has no /proc" >&2; exit 1; }
/bin/sh /debootstrap/debootstrap --second-stage
rm -rf /debootstrap /var/log/bootstrap.log
rm -f /etc/apt/sources.list
install -m 644 /.build/debian.sources /etc/apt/sources.list.d/debian.sources
