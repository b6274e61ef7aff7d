"""The official Python SDK by E2B_DOMAIN through a proxy: output arrives while its command runs, and a long upload arrives whole."""

from e2b import Sandbox

SIZE = 24 << 20
WAITS = "echo first; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo second"

sandbox = Sandbox.create("base", timeout=120)
try:
    running = sandbox.commands.run(WAITS, background=True, timeout=60)
    for stdout, _, _ in running:
        if stdout and "first" in stdout:
            sandbox.files.write("/tmp/go", "")  # a proxy that keeps the output back never comes here
    sandbox.files.write("/home/user/long", b"x" * SIZE)
    print(sandbox.files.get_info("/home/user/long").size == SIZE, len(sandbox.files.read("/home/user/long", format="bytes")) == SIZE)
finally:
    sandbox.kill()
