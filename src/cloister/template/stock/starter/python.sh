# As `user`, so that the files are in the same hands as those that users install later.
runuser -u user -- python3 -m pip install --no-cache-dir --progress-bar off --no-warn-script-location --only-binary=:all: \
    --require-hashes --no-deps --ignore-installed -r /.build/requirements.txt
python3 -m pip check
