# Debian's own copies cannot be replaced by pip ("uninstall-no-record-file"), so any package that wants a newer one could not be installed.
# These stand before them on the path and can.
runuser -u user -- python3 -m pip install --no-cache-dir --progress-bar off --no-warn-script-location --only-binary=:all: \
    --require-hashes --no-deps --ignore-installed -r /.build/pip.txt
python3 -m pip --version
python3 -m pip check
