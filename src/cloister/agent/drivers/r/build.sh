# Builds the R driver's native part, at template build, for the template's own R. Needs r-base-core, gcc and make.
set -e
target=${1:-/usr/local/lib/cloister/r}
work=$(mktemp -d)
cp kernel.c "$work/"
(cd "$work" && PKG_CFLAGS="-O2 -Wall" PKG_LIBS=-lpthread R CMD SHLIB -o kernel.so kernel.c)
mkdir -p "$target"
install -m 644 "$work/kernel.so" "$target/kernel.so"
rm -r "$work"
