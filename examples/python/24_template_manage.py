"""Builds in the background, their status and log; names, tags; building on another template."""

import time

from e2b import Sandbox, Template

base = Template().from_base_image().run_cmd("echo one > /home/user/version")
info = Template.build_in_background(base, "example-managed:v1", tags=["stable"])
offset = 0
while True:
    status = Template.get_build_status(info, logs_offset=offset)
    offset += len(status.log_entries)
    for entry in status.log_entries:
        print("log:", entry.level, entry.message)
    if status.status.value in ("ready", "error") and not status.log_entries:
        break
    time.sleep(0.2)
print("status:", status.status.value)
print("exists:", Template.exists("example-managed"), Template.exists("example-unheard-of"))

Template.build(Template().from_template("example-managed:v1").run_cmd("echo two > /home/user/version"), "example-managed:v2")
Template.assign_tags("example-managed:v2", ["production", "latest"])
Template.remove_tags("example-managed", "latest")
print("tags:", " ".join(sorted(tag.tag for tag in Template.get_tags("example-managed"))))
for tag in ("v1", "stable", "production"):
    with Sandbox.create(f"example-managed:{tag}", timeout=60) as sandbox:
        print(f"{tag}:", sandbox.commands.run("cat version").stdout.strip())
