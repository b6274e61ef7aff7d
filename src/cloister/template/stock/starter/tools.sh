# The user, and who owns what, as in `base` (base/tools.sh).
useradd --uid 1000 --user-group --create-home --home-dir /home/user --shell /bin/bash user
chmod 755 /home/user
echo 'user ALL=(ALL:ALL) NOPASSWD: ALL' > /etc/sudoers.d/user
echo 'Defaults env_keep += "SSL_CERT_FILE REQUESTS_CA_BUNDLE NODE_EXTRA_CA_CERTS CURL_CA_BUNDLE PIP_CERT http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY"' \
    > /etc/sudoers.d/environment
chmod 440 /etc/sudoers.d/user /etc/sudoers.d/environment
visudo -cq
mkdir -p /usr/local/lib/python3.13/dist-packages /usr/local/include /usr/local/share
chown -R user:user /usr/local
printf 'APT::Install-Recommends "false";\nAPT::Get::Assume-Yes "true";\n' > /etc/apt/apt.conf.d/90cloister
