"""Run commands: output, exit code, working directory, user."""

from e2b import CommandExitException, Sandbox

with Sandbox.create() as sandbox:
    result = sandbox.commands.run("echo hello; echo oh >&2")
    print("stdout:", result.stdout.strip())
    print("stderr:", result.stderr.strip())
    print("exit code:", result.exit_code)

    print("directory:", sandbox.commands.run("pwd", cwd="/tmp").stdout.strip())
    print("user:", sandbox.commands.run("whoami").stdout.strip())
    print("other user:", sandbox.commands.run("whoami", user="root").stdout.strip())

    try:
        sandbox.commands.run("ls /nowhere")
    except CommandExitException as error:
        print("failed with exit code", error.exit_code)
