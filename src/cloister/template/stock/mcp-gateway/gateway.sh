install -d /opt/mcp-gateway/lib/mcp_gateway /opt/mcp-gateway/servers /etc/mcp-gateway
install -d -m 700 /var/log/mcp-gateway
install -m 644 /.build/servers.toml /opt/mcp-gateway/servers.toml
install -m 644 /.build/mcp_gateway/*.py /opt/mcp-gateway/lib/mcp_gateway/
echo /opt/mcp-gateway/lib > /opt/mcp-gateway/venv/lib/python3.13/site-packages/mcp_gateway.pth
/opt/mcp-gateway/venv/bin/python3 -m compileall -q /opt/mcp-gateway/lib

# Not below /usr/local, which is `user`'s: root runs it.
cat > /usr/bin/mcp-gateway <<'PROGRAM'
#!/opt/mcp-gateway/venv/bin/python3
import sys

from mcp_gateway.command import main

sys.exit(main())
PROGRAM
chmod 755 /usr/bin/mcp-gateway
mcp-gateway list > /dev/null
