#!/bin/sh
# Builds the Java driver: DIR/kernel.jar and its class-data archive DIR/kernel.jsa (default /usr/local/lib/cloister/java).
# Runs inside the template, as root, with a JDK 21, when the template is built. The archive is made by a training run with kernel.options,
# the flags that decide whether the JVM accepts it later; heap size may differ.
set -eu
dir=${1:-/usr/local/lib/cloister/java}
source=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$dir"
javac -d "$work/classes" -Xlint:all,-serial \
    --add-exports java.base/jdk.internal.access=ALL-UNNAMED --add-exports java.base/jdk.internal.org.objectweb.asm=ALL-UNNAMED \
    --add-exports java.base/jdk.internal.org.objectweb.asm.commons=ALL-UNNAMED "$source"/*.java
cat > "$work/manifest" <<'MANIFEST'
Main-Class: cloister.kernel.Kernel
Add-Exports: java.base/jdk.internal.access java.base/jdk.internal.org.objectweb.asm
  java.base/jdk.internal.org.objectweb.asm.commons
Add-Opens: java.base/java.lang java.base/java.util.concurrent jdk.jshell/jdk.jshell
MANIFEST
jar --create --file "$dir/kernel.jar" --manifest "$work/manifest" -C "$work/classes" .
java -XX:+UseSerialGC -Xshare:auto -XX:ArchiveClassesAtExit="$dir/kernel.jsa" -jar "$dir/kernel.jar" --train
chmod 644 "$dir/kernel.jar" "$dir/kernel.jsa"
