#!/bin/sh
# Compiles the slot maker and join.so into a directory: build.sh DIRECTORY.
set -eu
out=$(cd "$1" && pwd)
cd "$(dirname "$0")"
warnings='-std=gnu11 -O2 -Wall -Wextra -Werror'
# Static, since it becomes pid 1 in roots of any libc.
# shellcheck disable=SC2086
"${CC:-cc}" $warnings -static -fstack-protector-strong -D_FORTIFY_SOURCE=2 -o "$out/cloister-slotmaker" slotmaker.c slot.c setup.c init.c
# Without a libc, since it is loaded into the Python of any template.
# shellcheck disable=SC2086
"${CC:-cc}" $warnings -shared -fPIC -nostdlib -ffreestanding -fno-stack-protector -fvisibility=hidden -fcf-protection=none -o "$out/join.so" join.c
