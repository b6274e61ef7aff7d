"""Images of a real registry become bases of templates: whatever is in them, and whatever is not."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.errors import BuildError
from framework.amazon import KEY_ID, REGISTRY_NAME, SECRET
from framework.image_node import ImageNode, image_node
from framework.pretend_internet import PRIVATE_ADDRESS, PretendInternet
from framework.registry import PASSWORD, USER, Image, Registry, entry, layer, registry

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module")
def hub(internet: PretendInternet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The registry, with the image ``static:1``."""
    with registry(internet, tmp_path_factory.mktemp("registry")) as made:
        made.push("static", "1", Image(layers=[static_layer(tmp_path_factory.mktemp("static"))]))
        yield made


@pytest.fixture(scope="module")
def node(internet: PretendInternet, hub: Registry) -> Iterator[ImageNode]:
    """One node for all tests of this file."""
    with image_node(internet, f"docker.io/mirrored/*={hub.open}/*") as made:
        yield made


def compiled(directory: Path, *command: str) -> bytes:
    """A program that says hello, by that compiler."""
    source = directory / "hello.c"
    source.write_text('#include <stdio.h>\nint main(void) { puts("hello of the image"); return 0; }\n')
    subprocess.run([*command, "-o", str(directory / "hello"), str(source)], check=True)
    return (directory / "hello").read_bytes()


def static_layer(directory: Path) -> bytes:
    """One static program and nothing else: no libc, no shell, no users."""
    return layer(entry("hello", data=compiled(directory, "gcc", "-static"), mode=0o755))


def busybox_entries() -> list[tuple[tarfile.TarInfo, bytes]]:
    """A system of busybox alone, as small images are."""
    programs = ("sh", "ls", "cat", "id", "grep", "adduser", "ps", "wc", "sleep", "mkdir", "find", "sort", "tr", "stat")
    return [
        entry("bin/", tarfile.DIRTYPE),
        entry("bin/busybox", data=Path("/bin/busybox").resolve().read_bytes(), mode=0o755),
        *(entry(f"bin/{name}", tarfile.SYMTYPE, linkname="busybox") for name in programs),
        entry("etc/passwd", data=b"root:x:0:0:root:/root:/bin/sh\n"),
        entry("etc/group", data=b"root:x:0:\n"),
    ]


def test_image_with_nothing_but_a_static_program(hub: Registry, node: ImageNode) -> None:
    """Gets a shell, a user, and what ready commands are made of; its own program runs."""
    base = node.base(f"{hub.open}/static:1")
    said = node.run(base, "/hello; id -un; pwd; echo $BASH_VERSION; ss -tln | head -n 1; pgrep -f bash > /dev/null && curl --version")
    assert said.startswith("hello of the image\nuser\n/home/user\n5.")
    assert "State" in said
    assert "curl 8" in said
    assert re.search("lacks .*bash, .*ss, ", node.log)
    script = "printf '#!/bin/bash\\necho script $0\\n' > ls; chmod 755 ls; ./ls"  # a name that there is a command of
    assert node.run(base, f"echo x > /tmp/x && cat /tmp/x; bash -c 'echo inner $0'; {script}") == "x\ninner bash\nscript ./ls\n"


def test_image_is_fetched_and_unpacked_once(hub: Registry, node: ImageNode) -> None:
    """The second time its registry is asked, and nothing fetched."""
    first = node.base(f"{hub.open}/static:1")
    assert node.base(f"{hub.open}/static:1") == first
    assert "here already" in node.log
    assert node.base("mirrored/static:1") == first
    assert f"mapped to {hub.open}/static:1" in node.log


def test_image_without_python_on_musl(hub: Registry, node: ImageNode, tmp_path: Path) -> None:
    """Its programs keep their own libc; ours run beside them."""
    musl = Path("/lib/x86_64-linux-musl/libc.so").read_bytes()
    program = entry("usr/bin/hello", data=compiled(tmp_path, "musl-gcc"), mode=0o755)
    loader = entry("lib/ld-musl-x86_64.so.1", data=musl, mode=0o755)
    hub.push("musl", "latest", Image(layers=[layer(*busybox_entries(), loader), layer(program)], packed="zstd", index=True))
    base = node.base(f"{hub.open}/musl")
    assert len(base.layers) == 3
    assert node.run(base, "hello; sh -c hello; ls /bin/busybox; curl --version > /dev/null && echo curl; id -un") == (
        "hello of the image\nhello of the image\n/bin/busybox\ncurl\nuser\n"
    )


def test_image_with_python(hub: Registry, node: ImageNode) -> None:
    """Its own Python is what commands find, not the agent's."""
    root = node.node.store.rootfs(node.node.base.layers[0])
    wanted = ["usr/bin/python3.13", "usr/bin/bash", "usr/bin/env", "usr/lib64", "lib", "lib64", "bin", "usr/lib/python3.13/encodings"]
    wanted += ["usr/lib/python3.13/lib-dynload", "usr/lib/python3.13/*.py"]
    libraries = ("ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6", "libz.so.1*", "libexpat.so.1*", "libtinfo.so.6*")
    wanted += [f"usr/lib/x86_64-linux-gnu/{name}" for name in libraries]
    command = f"cd {root} && tar --numeric-owner -cf - {' '.join(wanted)}"
    packed = subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout
    link = entry("usr/local/bin/python", tarfile.SYMTYPE, linkname="/usr/bin/python3.13")
    hub.push("team/python", "3.13", Image(layers=[packed, layer(link)]))
    base = node.base(f"{hub.open}/team/python:3.13")
    assert node.run(base, "python -c 'import sys; print(sys.executable, sys.prefix)'") == "/usr/local/bin/python /usr\n"


def test_image_with_its_own_user_environment_and_entry_point(hub: Registry, node: ImageNode) -> None:
    """The first two become the template's; the third is not started, and said so."""
    entries = [*busybox_entries(), entry("etc/passwd", data=b"root:x:0:0::/root:/bin/sh\nweb:x:101:101::/srv:/bin/sh\n")]
    config = {"User": "web", "WorkingDir": "/srv/app", "Env": ["PATH=/opt/bin:/bin", "GREETING=a=b c"]}
    config |= {"Entrypoint": ["/srv/serve"], "Cmd": ["-v"]}
    hub.push("own", "1", Image(layers=[layer(*entries)], config=config))
    base = node.base(f"{hub.open}/own:1")
    assert (base.user, base.workdir, base.envs["GREETING"]) == ("web", "/srv/app", "a=b c")
    assert "not started: /srv/serve -v" in node.log
    assert "set_start_cmd" in node.log
    assert node.run(base, 'id -un; pwd; echo "$GREETING $PATH"') == "web\n/srv/app\na=b c /opt/bin:/bin\n"
    assert node.run(base, "id -un; cd; pwd", user="user") == "user\n/home/user\n"


def test_whiteouts_owners_modes_and_attributes_over_layers(hub: Registry, node: ImageNode) -> None:
    """A sandbox sees the merged layers of the image, and the store has the same."""
    capability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    first = [
        *busybox_entries(),
        *(entry(f"data/{name}") for name in ("gone", "kept", "replaced", "dir/one", "dir/two", "opaque/old", "sub/x/y")),
        entry("data/suid", data=b"x", mode=0o4755, uid=7, gid=8),
        entry("data/capable", data=b"x", mode=0o755, pax_headers={"SCHILY.xattr.security.capability": capability}),
        entry("data/far", uid=1_000_000, gid=5),
        entry("data/nul", tarfile.CHRTYPE, devmajor=1, devminor=3),
    ]
    second = [
        entry("data/.wh.gone"),
        entry("data/dir/.wh.one"),
        entry("data/opaque/new"),
        entry("data/opaque/.wh..wh..opq"),
        entry("data/.wh.sub"),
        entry("data/replaced", tarfile.DIRTYPE),
        entry("data/hard", tarfile.LNKTYPE, linkname="data/suid"),
    ]
    third = [entry("data/sub/new"), entry("data/.wh.replaced"), entry("data/odd \udcff\n", data=b"odd")]
    hub.push("layers", "1", Image(layers=[layer(*first), layer(*second), layer(*third)]))
    base = node.base(f"{hub.open}/layers:1")
    said = node.run(base, "cd /data && find . | sort | tr '\\n' ' '; stat -c '%n %u:%g %a %h' suid hard far")
    listed, _, rest = said.partition("suid 7:8")
    assert "./capable ./dir ./dir/two ./far ./hard ./kept " in listed
    assert "./opaque ./opaque/new ./sub ./sub/new ./suid" in listed
    assert not any(name in listed for name in ("gone", "one", "old", "replaced", "sub/x", "nul"))
    assert rest.startswith(" 4755 2\nhard 7:8 4755 2\nfar 65534:5 644 1\n")
    tops = [node.node.store.rootfs(key) / "data/capable" for key in base.layers]
    found = next(path for path in tops if path.exists())
    assert os.getxattr(found, "security.capability")[4:8] == b"\x00\x04\x00\x00"
    assert stat.S_ISREG(found.stat().st_mode)
    assert "device nodes left out" in node.log
    assert "owners replaced" in node.log


def test_missing_tag_and_wrong_platform(hub: Registry, node: ImageNode) -> None:
    """Each is told as what it is."""
    with pytest.raises(BuildError, match=r"static:2' does not exist: .*manifest unknown"):
        node.base(f"{hub.open}/static:2")
    hub.push("arm", "1", Image(layers=[layer(entry("x"))], architecture="arm64"))
    with pytest.raises(BuildError, match=r"it is for linux/arm64; only linux/amd64"):
        node.base(f"{hub.open}/arm:1")
    hub.push("arms", "1", Image(layers=[layer(entry("x"))], architecture="arm64", index=True))
    with pytest.raises(BuildError, match=r"it is for linux/arm64; only linux/amd64"):
        node.base(f"{hub.open}/arms:1")


def test_credentials(hub: Registry, node: ImageNode) -> None:
    """Right ones fetch, wrong ones are refused, none are told to be needed; no password stays anywhere in the store."""
    reference = f"{hub.closed}/static:1"
    with pytest.raises(BuildError, match="does not hand out"):
        node.base(reference)
    with pytest.raises(BuildError, match="refused the credentials"):
        node.base(reference, username=USER, password="wrong")
    base = node.base(reference, username=USER, password=PASSWORD)
    assert node.run(base, "/hello") == "hello of the image\n"
    assert PASSWORD not in node.log
    assert not set(base.layers) & set(node.base(f"{hub.open}/static:1").layers[:1])
    found = subprocess.run(["grep", "-rlF", "-e", PASSWORD, node.node.store.root], capture_output=True, text=True, check=False)
    assert not [path for path in found.stdout.split() if "/agent/" not in path]


def test_credentials_of_amazon(hub: Registry, node: ImageNode) -> None:
    """An access key is for Amazon, which gives the registry's password for it; a wrong one is refused."""
    reference = f"{REGISTRY_NAME}:{hub.closed.rpartition(':')[2]}/static:1"
    with pytest.raises(BuildError, match=r"refused the credentials.*UnrecognizedClientException") as caught:
        node.base(reference, username=KEY_ID, password="wrong", is_aws_key=True)
    assert "access key" in str(caught.value.hint)
    base = node.base(reference, username=KEY_ID, password=SECRET, is_aws_key=True)
    assert node.run(base, "/hello") == "hello of the image\n"
    assert SECRET not in node.log


def test_image_that_does_not_fit(hub: Registry, node: ImageNode) -> None:
    """In the template's disk: the error names it, and nothing of the image stays."""
    hub.push("large", "1", Image(layers=[layer(entry("zeros", data=bytes(600 << 20)))]))
    before = {path.name for path in (node.node.store.root / "layers").iterdir()}
    with pytest.raises(BuildError, match="does not fit in the disk of 512 MiB"):
        node.base(f"{hub.open}/large:1")
    assert {path.name for path in (node.node.store.root / "layers").iterdir()} == before


def test_registry_that_is_down(hub: Registry, node: ImageNode) -> None:
    """An image that was pulled before is used, and the log gives its age. Another image of the registry is an error with a remedy."""
    base = node.base(f"{hub.open}/static:1")
    hub.stop()
    try:
        assert node.base(f"{hub.open}/static:1") == base
        assert re.search(r"cannot be reached: .*connection refused", node.log)
        assert re.search(r"as it was pulled on 20\d\d-\d\d-\d\d \d\d:\d\d UTC", node.log)
        with pytest.raises(BuildError, match=r"cannot be reached .*nothing here can stand for it"):
            node.base(f"{hub.open}/own:2")
    finally:
        hub.start()


@pytest.mark.parametrize("reference", ["python:3", "python:3.13-slim", "node:lts", "debian:stable", "ubuntu:22.04"])
def test_equivalent_without_any_registry(node: ImageNode, reference: str) -> None:
    """docker.io does not exist in the pretend internet: the base template stands for it, at once."""
    base = node.base(reference)
    assert base.layers == node.node.base.layers
    assert f"instead of docker.io/library/{reference}: " in node.log


@pytest.mark.parametrize("reference", ["python:3.12", "alpine:3.24"])
def test_no_equivalent(node: ImageNode, reference: str) -> None:
    """An error with cause, remedy, and what there is."""
    with pytest.raises(BuildError, match=r"docker\.io cannot be reached .*no such host") as caught:
        node.base(reference)
    assert "image_map" in str(caught.value.hint)


def test_registry_at_a_private_address(internet: PretendInternet, hub: Registry, node: ImageNode) -> None:
    """Is out of reach, as for sandboxes, unless ``allow_private`` lists it."""
    before = internet.packets(destination=PRIVATE_ADDRESS)
    with pytest.raises(BuildError, match="cannot be reached") as caught:
        node.base(f"{PRIVATE_ADDRESS}:5000/static:1")
    assert "allow_private" in str(caught.value.hint)
    assert internet.packets(destination=PRIVATE_ADDRESS) == before
    with image_node(internet, allow_private=("10.77.0.0/24",)) as open_node:
        assert open_node.run(open_node.base(f"{PRIVATE_ADDRESS}:5000/static:1"), "/hello") == "hello of the image\n"
