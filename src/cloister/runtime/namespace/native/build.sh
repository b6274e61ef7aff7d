#!/bin/sh
# Compiles the slot maker, the first process of gVisor's sandboxes, join.so and criu.so into a directory: build.sh DIRECTORY.
set -eu
out=$(cd "$1" && pwd)
mkdir -p "$out/guest"
cd "$(dirname "$0")"
warnings='-std=gnu11 -O2 -Wall -Wextra -Werror'
# Static, since it becomes pid 1 in roots of any libc.
# shellcheck disable=SC2086
"${CC:-cc}" $warnings -static -fstack-protector-strong -D_FORTIFY_SOURCE=2 -o "$out/cloister-slotmaker" \
    slotmaker.c slot.c volumes.c files.c procfs.c setup.c power.c init.c
# shellcheck disable=SC2086
"${CC:-cc}" $warnings -static -fstack-protector-strong -D_FORTIFY_SOURCE=2 -o "$out/guest/cloister-guest" ../../gvisor/native/guest.c init.c
# Without a libc, since it is loaded into the Python of any template.
# shellcheck disable=SC2086
"${CC:-cc}" $warnings -shared -fPIC -nostdlib -ffreestanding -fno-stack-protector -fvisibility=hidden -fcf-protection=none -o "$out/join.so" join.c
# With the libc that CRIU brings, which is no older than this one.
# shellcheck disable=SC2086
"${CC:-cc}" $warnings -shared -fPIC -fstack-protector-strong -fvisibility=default -Wl,-z,now -o "$out/criu.so" criu.c shared.c
