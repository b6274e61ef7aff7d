# Wheels and Node packages only, no install script of either; what the agent needs has none.
mkdir -p /agent-libraries/site /agent-libraries/drivers
python3 -m pip install --no-cache-dir --progress-bar off --no-compile --only-binary=:all: --require-hashes \
    --no-deps --target /agent-libraries/site -r /.build/requirements.txt
rm -rf /agent-libraries/site/bin
if [ -e /.build/drivers/package.json ]; then
    cp /.build/drivers/package.json /.build/drivers/package-lock.json /agent-libraries/drivers/
    (cd /agent-libraries/drivers && npm ci --omit=dev --ignore-scripts --no-audit --no-fund)
fi
