"""A template of your own: a recipe, built once, and sandboxes from it in milliseconds."""

import time

from e2b import Sandbox, Template, default_build_logger

template = (
    Template()
    .from_base_image()
    .apt_install("jq", no_install_recommends=True)
    .pip_install("cowsay")
    .set_envs({"GREETING": "moo"})
    .run_cmd("echo made at build > /home/user/note")
)

began = time.monotonic()
built = Template.build(template, "example-first", cpu_count=1, memory_mb=512, on_build_logs=default_build_logger())
cold = time.monotonic() - began
print("built:", built.name)

began = time.monotonic()
Template.build(template, "example-first", cpu_count=1, memory_mb=512)
cached = time.monotonic() - began
print("a second build takes its steps from the cache:", "yes" if cached < max(cold / 2, 5) else "no")

with Sandbox.create("example-first", timeout=120) as sandbox:
    print("note:", sandbox.commands.run("cat note").stdout.strip())
    print("jq:", sandbox.commands.run("echo '{\"a\": [1, 2]}' | jq -c .a").stdout.strip())
    print(sandbox.commands.run('python3 -c \'import cowsay, os; print(cowsay.get_output_string("cow", os.environ["GREETING"]))\'').stdout)
