"""Watch a directory, and learn of every change below it."""

import time

from e2b import Sandbox

with Sandbox.create() as sandbox:
    sandbox.files.make_dir("work")
    watcher = sandbox.files.watch_dir("work", recursive=True)
    sandbox.commands.run("cd work && echo hello > a.txt && mv a.txt b.txt && mkdir -p sub && rm b.txt")
    time.sleep(0.5)
    for event in watcher.get_new_events():
        print(event.type.value, event.name)
    watcher.stop()
