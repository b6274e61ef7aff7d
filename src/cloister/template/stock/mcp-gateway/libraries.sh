# In an environment of its own: nothing that users install, or remove, reaches the gateway.
python3 -m venv --without-pip /opt/mcp-gateway/venv
python3 -m pip --python=/opt/mcp-gateway/venv/bin/python3 install --no-cache-dir --progress-bar off --only-binary=:all: \
    --require-hashes --no-deps --root-user-action=ignore -r /.build/requirements.txt
