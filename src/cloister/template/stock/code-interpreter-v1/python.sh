# As `user`, so that the files are in the same hands as those that users install later. Byte code comes in the next step, offline.
runuser -u user -- python3 -m pip install --no-cache-dir --no-compile --progress-bar off --no-warn-script-location \
    --only-binary=:all: --require-hashes -r /.build/constraints.txt
