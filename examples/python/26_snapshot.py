"""The files of a sandbox, saved as a template: more sandboxes begin where this one is."""

from e2b import Sandbox

with Sandbox.create(timeout=120) as sandbox:
    sandbox.commands.run("mkdir project && echo 'work so far' > project/notes")
    snapshot = sandbox.create_snapshot()
    sandbox.commands.run("echo 'and more' >> project/notes")

    for number in (1, 2):
        with Sandbox.create(snapshot.snapshot_id, timeout=60) as copy:
            print(f"copy {number}:", copy.commands.run("cat project/notes").stdout.strip())
    print("the first:", sandbox.commands.run("tail -n 1 project/notes").stdout.strip())
    print("listed:", "yes" if snapshot.snapshot_id in [one.snapshot_id for one in sandbox.list_snapshots().next_items()] else "no")
print("deleted:", "yes" if Sandbox.delete_snapshot(snapshot.snapshot_id) else "no")
