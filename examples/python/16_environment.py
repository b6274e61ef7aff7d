"""Environment variables: of the sandbox, and of one command, which wins."""

from e2b import Sandbox

with Sandbox.create(envs={"COLOUR": "blue", "SHAPE": "round"}) as sandbox:
    print("sandbox:", sandbox.commands.run("echo $COLOUR $SHAPE").stdout.strip())
    print("command:", sandbox.commands.run("echo $COLOUR $SHAPE", envs={"COLOUR": "it's \"red\""}).stdout.strip())
    print("afterwards:", sandbox.commands.run("echo $COLOUR $SHAPE").stdout.strip())
    print("in a sandbox:", sandbox.commands.run("echo $E2B_SANDBOX").stdout.strip())
