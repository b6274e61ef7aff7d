"""Errors of builds: the message names the cause, the traceback the line of the recipe."""

import traceback

from e2b import BuildException, Template, wait_for_port

TEMPLATES = {
    "a failing step": Template().from_base_image().run_cmd("echo before").run_cmd("cat /does/not/exist"),
    "no such user": Template().from_base_image().run_cmd("whoami", user="nobody-knows"),
    "no such image": Template().from_image("fedora:44"),
    "a start command that dies": Template().from_base_image().set_start_cmd("echo no licence; exit 7", wait_for_port(80)),
}

for name, template in TEMPLATES.items():
    try:
        Template.build(template, "example-broken")
    except BuildException as error:
        lines = [frame.line for frame in traceback.extract_tb(error.__traceback__) if frame.filename == __file__]
        print(f"{name}: {error}")
        print("    at:", lines[-1])
