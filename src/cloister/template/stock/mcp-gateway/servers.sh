# So that these are there at once, and without internet; all others are installed when they are first asked for.
mcp-gateway pull filesystem memory time
rm -rf /root/.npm
