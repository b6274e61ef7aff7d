"""The internet of a sandbox: limited to names, changed while it runs, and the record of what was contacted."""

import json
import os
import time
import urllib.request

from e2b import ALL_TRAFFIC, Sandbox


def fetch(sandbox, host):
    run = sandbox.commands.run(f"curl --silent --fail --output /dev/null https://{host}/get && echo reached || echo refused")
    return run.stdout.strip()


def refusals(sandbox):
    address = f"{os.environ['E2B_API_URL']}/sandboxes/{sandbox.sandbox_id}/connections?verdict=refused"
    request = urllib.request.Request(address, headers={"X-API-Key": os.environ["E2B_API_KEY"]})
    return json.load(urllib.request.urlopen(request))


with Sandbox.create(network={"allow_out": ["httpbin.org"], "deny_out": [ALL_TRAFFIC]}) as sandbox:
    print("httpbin.org:", fetch(sandbox, "httpbin.org"))
    print("example.com:", fetch(sandbox, "example.com"))

    while not (found := refusals(sandbox)):
        time.sleep(0.5)
    print("in the record:", found[0]["name"], found[0]["rule"])

    sandbox.update_network({"deny_out": [ALL_TRAFFIC]})
    print("after the update:", fetch(sandbox, "httpbin.org"))
    sandbox.update_network({})
    print("without limits:", fetch(sandbox, "httpbin.org"))
