"""What a sandbox uses: processor, memory, disk."""

import time

from e2b import Sandbox

with Sandbox.create() as sandbox:
    sandbox.commands.run("head -c 50M /dev/zero > large; sync; timeout 2 sh -c 'while :; do :; done' || true")
    metrics = []
    while not metrics:  # the first measurement takes a moment
        time.sleep(1)
        metrics = sandbox.get_metrics()
    last = metrics[-1]
    print("processors:", last.cpu_count)
    print(f"processor: {last.cpu_used_pct:.0f} %")
    print(f"memory: {last.mem_used >> 20} of {last.mem_total >> 20} MiB")
    print(f"disk: {last.disk_used >> 20} of {last.disk_total >> 20} MiB")
