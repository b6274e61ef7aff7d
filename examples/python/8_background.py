"""Start a program in the background, see its output as it comes, send it input, and end it."""

from e2b import Sandbox

with Sandbox.create() as sandbox:
    sandbox.commands.run(
        "for i in 1 2 3; do echo line $i; sleep 0.2; done",
        on_stdout=lambda text: print("streamed:", text.strip(), flush=True),
    )

    counter = sandbox.commands.run("wc -w", background=True, stdin=True)
    counter.send_stdin("three words here\n")
    counter.send_stdin("and two\n")
    counter.close_stdin()
    print("words:", counter.wait().stdout.strip())

    sleeper = sandbox.commands.run("sleep 1000", background=True)
    sleeper.disconnect()  # it runs on without us
    print("running:", ", ".join(one.args[-1] for one in sandbox.commands.list()) or "nothing")

    again = sandbox.commands.connect(sleeper.pid)
    print("killed:", "yes" if again.kill() else "no")
    print("running:", ", ".join(one.args[-1] for one in sandbox.commands.list()) or "nothing")
