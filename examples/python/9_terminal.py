"""A terminal, as a person would use it: with a size, a prompt and a shell that is asked to leave."""

from e2b import PtySize, Sandbox

output = []

with Sandbox.create() as sandbox:
    terminal = sandbox.pty.create(PtySize(rows=24, cols=80))
    sandbox.pty.resize(terminal.pid, PtySize(rows=30, cols=100))
    sandbox.pty.send_stdin(terminal.pid, b"stty size; tty; echo $TERM; exit\n")
    result = terminal.wait(on_pty=lambda data: output.append(data))

print(b"".join(output).decode())
print("exit code:", result.exit_code)
