"""The official Python SDK with E2B_DOMAIN only: API, code interpreter, a program's port and a WebSocket by the public domain, by TLS."""

import json
import os
import ssl
import urllib.request

from e2b_code_interpreter import Sandbox
from websockets.sync.client import connect

_START = """
import subprocess
subprocess.Popen(['python3', '-m', 'http.server', '8000', '--bind', '127.0.0.1', '--directory', '/etc'], start_new_session=True)
subprocess.Popen(['python3', '-c', '''
import asyncio, tornado.web, tornado.websocket
class Echo(tornado.websocket.WebSocketHandler):
    def check_origin(self, origin): return True
    def on_message(self, message): self.write_message(message.upper())
async def main():
    tornado.web.Application([('/ws', Echo)]).listen(8001, '127.0.0.1')
    await asyncio.Event().wait()
asyncio.run(main())
'''], start_new_session=True)
import socket, time
for port in (8000, 8001):
    for _ in range(100):
        try: socket.create_connection(('127.0.0.1', port)).close(); break
        except OSError: time.sleep(0.1)
"""

sandbox = Sandbox.create(timeout=60)
try:
    seen = {
        "running": sandbox.is_running(),
        "text": sandbox.run_code("1+1").text,
        "host": sandbox.get_host(8000),
        "domain": sandbox.sandbox_domain,
        "url": sandbox.download_url("/etc/hostname"),
    }
    started = sandbox.run_code(_START)
    assert started.error is None, started.error
    with urllib.request.urlopen(f"https://{sandbox.get_host(8000)}/debian_version") as response:
        seen["status"] = response.status
    with connect(f"wss://{sandbox.get_host(8001)}/ws", ssl=ssl.create_default_context()) as client:
        client.send("hello")
        seen["echo"] = client.recv()
    seen["listed"] = [info.sandbox_id for info in Sandbox.list().next_items()] == [sandbox.sandbox_id]
    seen["urls"] = sorted(name for name in os.environ if name.startswith("E2B_"))
    print(json.dumps(seen))
finally:
    sandbox.kill()
