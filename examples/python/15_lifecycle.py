"""The life of a sandbox: describe it, find it, connect to it, give it more time, kill it."""

from e2b import Sandbox, SandboxQuery

sandbox = Sandbox.create(timeout=60, metadata={"owner": "ada"})
try:
    info = sandbox.get_info()
    print("state:", info.state.value)
    print("template:", info.name)
    print("metadata:", info.metadata["owner"])
    print("seconds to live:", round((info.end_at - info.started_at).total_seconds()))

    sandbox.set_timeout(600)
    info = sandbox.get_info()
    print("more than before:", "yes" if (info.end_at - info.started_at).total_seconds() > 300 else "no")

    found = Sandbox.list(query=SandboxQuery(metadata={"owner": "ada"})).next_items()
    print("found:", "yes" if sandbox.sandbox_id in [one.sandbox_id for one in found] else "no")

    same = Sandbox.connect(sandbox.sandbox_id)
    same.commands.run("echo remembered > note")
    print("connected:", sandbox.commands.run("cat note").stdout.strip())
finally:
    sandbox.kill()
print("running:", "yes" if sandbox.is_running() else "no")
