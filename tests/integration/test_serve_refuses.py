"""``cloister serve`` looks at the host before it starts anything: each fault is one line with the remedy, all at once, exit code 2."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

NOWHERE = "192.0.2.77:9"
"""No address of this host, so that no server ever starts."""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="cloister-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def refused(place: Path, *options: str, before: str = "") -> list[str]:
    """Output of serve. ``before`` is a shell command that runs first, in mount and network namespaces for this run."""
    places = [word for name in ("data", "store", "run") for word in (f"--{name}-dir", str(place / name)) if f"--{name}-dir" not in options]
    command = [sys.executable, "-m", "cloister.cli.main", "serve", "--listen", NOWHERE, "--domain", "headers-only", *places, *options]
    if before:
        command = ["unshare", "--mount", "--net", "sh", "-euc", f'{before}; exec "$@"', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert all(line.startswith("cloister: setting ") and "; " in line for line in lines), lines
    return lines


def test_every_kind_of_fault_is_told_at_once(place: Path) -> None:
    """Texts that only their own parsers know, files that are not there, and names that are unknown, in one run."""
    (place / "no.pem").write_text("nothing\n")
    given = {
        "--image-map": "nonsense",
        "--host-registries": "localhost",
        "--insecure-registries": "a/b",
        "--pool-templates": "nope",
        "--extra-ca-file": str(place / "no.pem"),
        "--listen-tls": "127.0.0.1:0",
        "--tls-cert-file": str(place / "missing.crt"),
        "--tls-key-file": str(place / "missing.key"),
        "--allow-private": "127.0.0.1/32,10.77.0.0/16",
        "--default-cpu-count": "0.0001",
        "--checkpoint": str(place / "no-criu"),
    }
    lines = refused(place, *(word for pair in given.items() for word in pair))
    said = [
        r"image_map \(command line\): 'nonsense' is not of the form REFERENCE=",
        r"host_registries .*'localhost' is not of the form HOST:PORT",
        r"insecure_registries .*'a/b' is not of the form",
        r"pool_templates .*no template 'nope'; templates are: base, code-interpreter-v1",
        r"extra_ca_file .*no\.pem holds no certificate",
        r"tls_cert_file .*missing\.key cannot be read",
        r"allow_private .*127\.0\.0\.1/32 holds loopback",
        r"default_cpu_count .*too small",
        r"checkpoint .*no-criu cannot be run: .*; the setting checkpoint takes a CRIU, .* or `auto`",
    ]
    for pattern in said:
        assert sum(bool(re.search(pattern, line)) for line in lines) == 1, (pattern, lines)
    assert len(lines) == len(said), lines
    assert list(place.iterdir()) == [place / "no.pem"]


@pytest.mark.parametrize("name", ["data", "store", "run"])
def test_a_file_is_no_directory(name: str, place: Path) -> None:
    """A file in place of a directory, or of one of its parents, is named."""
    (place / "file").touch()
    for path in (place / "file", place / "file" / "below"):
        lines = refused(place, f"--{name}-dir", str(path))
        assert any(f"setting {name}_dir (command line): {place}/file is not a directory; remove it" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("ro", r"data_dir .* cannot be written; give a directory on a file system that is mounted read-write"),
        ("noexec,nosuid", "store_dir .* is mounted noexec, nosuid; remove these options"),
        ("nodev", "data_dir .* is mounted nodev; remove these options"),
    ],
)
def test_a_file_system_that_lacks_what_sandboxes_need(options: str, said: str, place: Path) -> None:
    """Mount options that would break sandboxes later are told now."""
    mounted = place / "mounted"
    mounted.mkdir()
    mount = f"mount -t tmpfs -o mode=0755,{options} none {mounted}"
    lines = refused(place, "--data-dir", f"{mounted}/data", "--store-dir", f"{mounted}/store", before=mount)
    assert any(re.search(said, line) for line in lines), lines


def test_an_overlay_is_no_place_for_layers(place: Path) -> None:
    """A container's root, which is an overlay, is refused by name."""
    for name in ("low", "up", "all"):
        (place / name).mkdir()
    upper = f"mount -t tmpfs none {place}/up; mkdir {place}/up/u {place}/up/w"
    layers = f"lowerdir={place}/low,upperdir={place}/up/u,workdir={place}/up/w"
    lines = refused(place, "--store-dir", f"{place}/all/store", before=f"{upper}; mount -t overlay -o {layers} none {place}/all")
    assert any("store_dir (command line): " in line and "is on overlay" in line for line in lines), lines


def test_networks_of_the_host_are_not_the_sandboxes(place: Path) -> None:
    """A sandbox network that overlaps one of the host's, and the host itself among allowed networks, are told; a wider route is fine."""
    before = "ip link add d0 type veth peer name d1; ip address add 10.77.3.1/24 dev d0; ip link set d0 up; ip route add 10.0.0.0/8 dev d0"
    lines = refused(place, "--network-cidr", "10.77.0.0/16", "--allow-private", "10.77.3.1/32", before=before)
    assert any("network_cidr" in line and "overlaps the network 10.77.3.0/24 of this host's interface d0" in line for line in lines)
    assert not any("10.0.0.0/8" in line for line in lines)
    lines = refused(place, "--allow-private", "10.77.3.1/32", before=before)
    assert any("allow_private" in line and "is this host itself" in line for line in lines)


def test_an_address_that_is_taken_or_not_ours(place: Path) -> None:
    """An address that cannot be bound is a fault of the setting."""
    (line,) = refused(place)
    cause = f"cannot listen on {NOWHERE}: Cannot assign requested address"
    assert line == f"cloister: setting listen: {cause}; give an address of this host"
    assert list(place.iterdir()) == []
