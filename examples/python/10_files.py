"""Write, read, list, describe, rename and remove files."""

from e2b import FileNotFoundException, Sandbox

with Sandbox.create() as sandbox:
    sandbox.files.write("notes/today.txt", "buy milk\n")
    sandbox.files.write_files([
        {"path": "notes/one.txt", "data": "1"},
        {"path": "notes/two.bin", "data": b"\x00\x01\x02"},
    ])
    print("text:", sandbox.files.read("notes/today.txt").strip())
    print("bytes:", sandbox.files.read("notes/two.bin", format="bytes").hex())

    sandbox.files.make_dir("notes/old")
    sandbox.files.rename("notes/one.txt", "notes/old/one.txt")
    for entry in sandbox.files.list("notes", depth=2):
        print(f"{entry.type.value} {entry.path} {entry.permissions}")

    info = sandbox.files.get_info("notes/today.txt")
    print("size:", info.size, "owner:", info.owner)

    sandbox.files.remove("notes")
    print("exists:", "yes" if sandbox.files.exists("notes") else "no")
    try:
        sandbox.files.read("notes/today.txt")
    except FileNotFoundException:
        print("not found")
