#!/bin/sh
# Compiles the slot maker: build.sh OUTPUT. Static, since it becomes pid 1 in roots of any libc.
set -eu
cd "$(dirname "$0")"
exec "${CC:-cc}" -std=gnu11 -O2 -Wall -Wextra -Werror -static -fstack-protector-strong -D_FORTIFY_SOURCE=2 -o "$1" ./*.c
