# Install the program of /.build/package.json below /opt, as locked, and run it once.
name=$(node -p 'require("/.build/package.json").name')
install -d "/opt/$name"
cp /.build/package.json /.build/package-lock.json "/opt/$name/"
npm ci --prefix "/opt/$name" --no-audit --no-fund --no-update-notifier
rm -rf "/opt/$name"/node_modules/*-musl "/opt/$name"/node_modules/@*/*-musl  # of other C libraries, which Debian's npm does not leave out
ln -s "/opt/$name/node_modules/.bin/$name" "/usr/bin/$name"
runuser -u user -- env HOME=/tmp "$name" --version
rm -rf /tmp/.[!.]*
