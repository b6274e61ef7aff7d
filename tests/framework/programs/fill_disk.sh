# Fills the disk of a sandbox but for some 40 MiB. As root of the sandbox; needs a server with more free space than the disk has.
# A disk's bound rises while the server has space (docs/decisions/0705-disk-that-is-there.md), so one file is not enough.
n=0
while [ "$(df -B1M --output=size,used / | awk 'END { print $1 - $2 }')" -gt 40 ]; do
    room=$(($(df -B1M --output=avail / | tail -1) - 20))
    [ "$room" -le 0 ] || fallocate -l "${room}M" "/var/filler.$((n += 1))" || true
    sleep 0.1
done
