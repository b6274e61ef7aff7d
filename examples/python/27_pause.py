"""Pause a sandbox and go on with it later: with its memory and processes, or with its files only."""

from e2b_code_interpreter import Sandbox

sandbox = Sandbox.create(timeout=120)
try:
    sandbox.run_code("total = 40")
    sandbox.files.write("notes", "kept on disk")
    worker = sandbox.commands.run("for i in 1 2 3 4 5; do echo step $i; sleep 0.3; done", background=True)

    print("paused:", "yes" if sandbox.pause() else "already")
    print("state:", sandbox.get_info().state.value)
    print("running:", "yes" if sandbox.is_running() else "no")

    again = Sandbox.connect(sandbox.sandbox_id, timeout=120)  # from any other program with the key
    print("variables:", again.run_code("total + 2").text)
    print("the command goes on:", again.commands.connect(worker.pid).wait().stdout.split("\n")[-2])

    sandbox.pause(mode="filesystem")  # ends the processes and frees their memory
    again.connect(timeout=120)
    print("files:", again.files.read("notes"))
    print("variables:", again.run_code("total").error.name)
finally:
    sandbox.kill()
