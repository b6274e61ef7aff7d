"""Who may reach a sandbox: the SDK holds its tokens, everybody else is refused."""

import os
import urllib.error
import urllib.request

from e2b import Sandbox


def status(sandbox, port, path, **headers):
    headers |= {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(port)}
    try:
        return urllib.request.urlopen(urllib.request.Request(os.environ["E2B_SANDBOX_URL"] + path, headers=headers)).status
    except urllib.error.HTTPError as error:
        return error.code


with Sandbox.create(network={"allow_public_traffic": False}) as sandbox:
    sandbox.commands.run("python3 -m http.server 8000", background=True)
    sandbox.commands.run("curl -s --retry-connrefused --retry 20 --retry-delay 1 -o /dev/null http://127.0.0.1:8000/")
    token = {"E2b-Traffic-Access-Token": sandbox.traffic_access_token}

    print("web server, without a token:", status(sandbox, 8000, "/"))
    print("web server, with the token:", status(sandbox, 8000, "/", **token))
    print("files, with only that token:", status(sandbox, 49983, "/files?path=/etc/hostname", **token))
    print("files, by the SDK:", "yes" if sandbox.files.exists("/etc/hostname") else "no")
