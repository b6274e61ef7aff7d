"""Run a web server in a sandbox and ask it from outside."""

import os
import urllib.request

from e2b import Sandbox

with Sandbox.create() as sandbox:
    sandbox.commands.run("mkdir -p site && echo 'hello from inside' > site/index.html")
    sandbox.commands.run("python3 -m http.server 8000 --bind 127.0.0.1 --directory site", background=True)
    sandbox.commands.run("curl -s --retry-connrefused --retry 20 --retry-delay 1 -o /dev/null http://127.0.0.1:8000/")

    print("port 8000 is", sandbox.get_host(8000).split(".")[0].replace(sandbox.sandbox_id, "<id>"))

    # With a domain of your own, https:// + get_host() is all. Without, the server's address and two headers say what is meant.
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "8000"}
    request = urllib.request.Request(os.environ["E2B_SANDBOX_URL"] + "/", headers=headers)
    print(urllib.request.urlopen(request).read().decode().strip())
