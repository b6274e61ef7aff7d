"""Copies of a running sandbox: each begins with its files and goes its own way."""

from e2b import Sandbox

FILES = {"X-Fork-Memory": "false"}  # without checkpoints a server copies the files, and a copy boots with them

with Sandbox.create("base", timeout=120) as sandbox:
    sandbox.commands.run("mkdir search && echo 'state so far' > search/state")
    copies = sandbox.fork(count=3, timeout=60, api_headers=FILES)
    for number, copy in enumerate(copies, 1):
        if isinstance(copy, Exception):  # each copy succeeds or fails by itself
            print(f"copy {number}:", copy)
            continue
        with copy:
            copy.commands.run(f"echo 'branch {number}' >> search/state")
            print(f"copy {number}:", ", ".join(copy.files.read("search/state").splitlines()))
    print("the original:", sandbox.files.read("search/state").strip())
