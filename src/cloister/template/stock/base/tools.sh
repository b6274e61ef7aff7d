useradd --uid 1000 --user-group --create-home --home-dir /home/user --shell /bin/bash user
chmod 755 /home/user
echo 'user ALL=(ALL:ALL) NOPASSWD: ALL' > /etc/sudoers.d/user
# The variables of a sandbox (certificates, proxies) are its own and reach commands run by sudo.
echo 'Defaults env_keep += "SSL_CERT_FILE REQUESTS_CA_BUNDLE NODE_EXTRA_CA_CERTS CURL_CA_BUNDLE PIP_CERT http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY"' \
    > /etc/sudoers.d/environment
chmod 440 /etc/sudoers.d/user /etc/sudoers.d/environment
visudo -cq

# `pip install` and `npm install -g` of `user` go where root's go, so that every kernel and command sees them.
mkdir -p /usr/local/lib/python3.13/dist-packages /usr/local/lib/node_modules /usr/local/include /usr/local/share
chown -R user:user /usr/local

printf 'APT::Install-Recommends "false";\nAPT::Get::Assume-Yes "true";\n' > /etc/apt/apt.conf.d/90cloister
python3 -m compileall -q /usr/lib/python3/dist-packages || true
