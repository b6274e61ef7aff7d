"""Data that outlives a sandbox and is shared by two; and the same volume without a sandbox, here and with ``async``."""

import asyncio
import uuid

from e2b import AsyncVolume, Sandbox, Volume, VolumeException

volume = Volume.create(f"example-{uuid.uuid4().hex[:8]}")
try:
    volume.write_file("/input.csv", "1,2")
    with Sandbox.create(volume_mounts={"/data": volume}) as one, Sandbox.create(volume_mounts={"/shared": f"{volume.name}:ro"}) as two:
        print("two sees:", two.files.read("/shared/input.csv"))
        one.commands.run("echo $(cat /data/input.csv),3 > /data/output.csv")
        print("back:", two.files.read("/shared/output.csv").strip())
        written = two.commands.run("touch /shared/x || echo no")
        print("read-only:", "yes" if written.stdout.strip() == "no" else "no")
        print("files:", *sorted(entry.path for entry in volume.list("/")))
        try:
            Volume.destroy(volume.volume_id)
        except VolumeException as error:
            print("in use:", str(error)[:3])

    async def read() -> str:
        again = await AsyncVolume.connect(volume.volume_id)
        return str(await again.read_file("/output.csv"))

    print("after the sandboxes:", asyncio.run(read()).strip())
finally:
    print("deleted:", "yes" if Volume.destroy(volume.volume_id) else "no")
