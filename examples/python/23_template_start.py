"""Templates with a start command: `Sandbox.create()` returns when the ready command has passed."""

import sys

from e2b import Sandbox, Template, wait_for_file, wait_for_port, wait_for_process, wait_for_timeout, wait_for_url

SERVER = "python3 -m http.server 8080"
TEMPLATES = {
    "port": Template().from_base_image().set_start_cmd(SERVER, wait_for_port(8080)),
    "url": Template().from_base_image().set_start_cmd(SERVER, wait_for_url("http://localhost:8080/")),
    "process": Template().from_base_image().set_start_cmd("exec -a my-daemon sleep infinity", wait_for_process("sleep")),
    "file": Template().from_base_image().set_start_cmd("sleep 0.5; touch /tmp/up; sleep infinity", wait_for_file("/tmp/up")),
    "timeout": Template().from_base_image().set_start_cmd(SERVER, wait_for_timeout(1_000)),
    "command": Template().from_base_image().set_ready_cmd("true"),
}

for kind in sys.argv[1:] or TEMPLATES:
    Template.build(TEMPLATES[kind], f"example-ready-{kind}", memory_mb=512)
    with Sandbox.create(f"example-ready-{kind}", timeout=120) as sandbox:
        processes = [process.cmd + " " + " ".join(process.args) for process in sandbox.commands.list()]
        print(f"{kind}: ready; running:", processes[0].removeprefix("/bin/bash -l -c ") if processes else "nothing")
        if kind == "port":
            print("answers:", sandbox.commands.run("curl -s -o /dev/null -w '%{http_code}' localhost:8080").stdout)
