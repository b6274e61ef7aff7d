# Nothing may start a service while packages are installed: a sandbox has no init system.
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d

# debootstrap copies these from the host.
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' > /etc/hosts
echo cloister > /etc/hostname
: > /etc/resolv.conf
