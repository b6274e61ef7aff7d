xargs runuser -u user -- env HOME=/home/user npm install --global --no-audit --no-fund --no-update-notifier < /.build/npm.txt
rm -rf /home/user/.npm
runuser -u user -- tsc --version
