"""The host layer: what is taken from the host, and what is left out."""

from __future__ import annotations

import datetime as dt
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12
from cryptography.x509.oid import NameOID

from cloister.errors import InvalidRequestError
from cloister.template.hostlayer import HostLayer, HostLayerConfig, build_host_layer, overlaid_files


def _certificate(name: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(start)
    builder = builder.not_valid_after(start + dt.timedelta(days=9000))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


PUBLIC, LOCAL, EXTRA = _certificate("public"), _certificate("local"), _certificate("extra")


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A Debian host's root with a public and a local certificate."""
    root = tmp_path / "host"
    _write(root, "etc/os-release", 'ID=debian\nVERSION_CODENAME="bookworm"\n')
    _write(root, "usr/share/ca-certificates/mozilla/public.crt", PUBLIC.decode())
    _write(root, "usr/local/share/ca-certificates/local.crt", LOCAL.decode())
    _write(root, "etc/ssl/certs/ca-certificates.crt", (PUBLIC + LOCAL).decode())
    return root


def _write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def _build(host: Path, **changes: object) -> HostLayer:
    given = {"resolver": "10.0.0.1", "host_root": host, "home": host / "root", "environ": {}, **changes}
    return build_host_layer(host.parent / "layer", HostLayerConfig(**given))  # type: ignore[arg-type]  # fields by name


def _read(layer: HostLayer, name: str) -> str:
    return (layer.path / name).read_text()


def test_certificates_come_in_every_form(host: Path) -> None:
    """The bundle and Java's store hold the host's and the extra ones. Local ones are files, too."""
    extra = host.parent / "extra.pem"
    extra.write_bytes(EXTRA)
    layer = _build(host, extra_ca_file=extra)
    bundle = (layer.path / "etc/ssl/certs/ca-certificates.crt").read_bytes()
    assert all(text in bundle for text in (PUBLIC, LOCAL, EXTRA))
    files = {path.read_bytes() for path in (layer.path / "etc/ca-certificates/host").iterdir()}
    assert files == {LOCAL, EXTRA}
    store = load_pkcs12((layer.path / "etc/ssl/certs/java/cacerts").read_bytes(), None)
    assert len(store.additional_certs) == 3


def test_a_bad_extra_file_is_refused(host: Path) -> None:
    """An extra CA file that is missing or holds no certificate is an error that names it."""
    with pytest.raises(InvalidRequestError, match=r"none\.pem"):
        _build(host, extra_ca_file=host / "none.pem")
    _write(host, "empty.pem", "nothing")
    with pytest.raises(InvalidRequestError, match="holds no certificate"):
        _build(host, extra_ca_file=host / "empty.pem")


def test_package_settings_of_the_host_go_along(host: Path) -> None:
    """pip, npm, apt and R find the host's package sources in the places where they look."""
    _write(host, "etc/pip.conf", "[global]\nindex-url = https://mirror.example/simple\nextra-index-url =\n  https://a.example/s\n  https://b.example/s\n")
    _write(host, "root/.npmrc", "registry=https://mirror.example/npm/\n//mirror.example/npm/:_authToken=secret\n")
    sources = "deb [arch=amd64] http://mirror.example/debian bookworm main contrib # x\ndeb http://other.example/tool bookworm main\n"
    _write(host, "etc/apt/sources.list", sources)
    _write(host, "etc/apt/apt.conf.d/01x", 'Acquire::http::Proxy "http://proxy.example:3128";\nAPT::Update::Post-Invoke "evil";\n')
    _write(host, "etc/R/Rprofile.site", 'local({ r["CRAN"] <- "https://mirror.example/cran" })\n')
    layer = _build(host)
    assert "index-url = https://mirror.example/simple\n" in _read(layer, "etc/pip.conf")
    assert "extra-index-url = https://a.example/s\n    https://b.example/s\n" in _read(layer, "etc/pip.conf")
    assert _read(layer, "etc/npmrc") == "cafile=/etc/ssl/certs/ca-certificates.crt\nregistry=https://mirror.example/npm/\n"
    sources = _read(layer, "etc/apt/sources.list.d/debian.sources")
    assert "URIs: http://mirror.example/debian\nSuites: trixie\nComponents: main\n" in sources
    assert "Signed-By:" in sources
    assert "other.example" not in sources
    assert _read(layer, "etc/apt/apt.conf.d/99cloister-host") == 'Acquire::http::Proxy "http://proxy.example:3128";\n'
    assert "https://mirror.example/cran" in _read(layer, "etc/R/Rprofile.site")


def test_secrets_paths_and_loopback_stay_outside(host: Path) -> None:
    """No credential, host path or loopback address gets inside. Each omission is noted without its secret."""
    _write(host, "etc/pip.conf", "[global]\nindex-url = https://user:hunter2@mirror.example/simple\ncert = /home/me/ca.pem\n")
    _write(host, "etc/apt/apt.conf", 'Acquire::https::Proxy "http://u:hunter2@proxy.example:1";\n')
    environ = {"PIP_FIND_LINKS": "/opt/wheels", "http_proxy": "http://127.0.0.1:3128", "https_proxy": "http://u:hunter2@p.example:1"}
    layer = _build(host, environ=environ)
    everything = "".join(path.read_text(errors="replace") for path in layer.path.rglob("*") if path.is_file()) + repr(layer)
    for leak in ("hunter2", "/opt/wheels", "/home/me", "3128"):
        assert leak not in everything
    assert len(layer.notes) == 5
    assert "http_proxy" not in layer.envs


def test_credentials_go_along_when_asked(host: Path) -> None:
    """With ``include_credentials`` an index with a password is handed on as it is."""
    _write(host, "etc/pip.conf", "[global]\nindex-url = https://user:secret@mirror.example/simple\n")
    assert "user:secret@" in _read(_build(host, include_credentials=True), "etc/pip.conf")


def test_the_variables_point_into_the_sandbox(host: Path) -> None:
    """Every certificate variable names the bundle inside, and a proxy that sandboxes reach is in both spellings."""
    bundle = str(host / "etc/ssl/certs/ca-certificates.crt")
    layer = _build(host, environ={"HTTPS_PROXY": "http://proxy.example:3128", "SSL_CERT_FILE": bundle})
    assert layer.envs["SSL_CERT_FILE"] == layer.envs["NODE_EXTRA_CA_CERTS"] == "/etc/ssl/certs/ca-certificates.crt"
    assert layer.envs["https_proxy"] == layer.envs["HTTPS_PROXY"] == "http://proxy.example:3128"


@pytest.mark.parametrize("shell", ["bash", "dash"])
def test_a_path_that_was_chosen_is_put_back(host: Path, shell: str) -> None:
    """Read after a distribution's profile, the file sets the PATH that was handed in, once; without one it changes nothing."""
    script = f"PATH=/bin; . {_build(host).path}/etc/profile.d/00-cloister-path.sh; echo $PATH; echo ${{CLOISTER_LOGIN_PATH-gone}}"

    def login(**env: str) -> str:
        return subprocess.run([shutil.which(shell) or shell, "-euc", script], env=env, capture_output=True, text=True, check=True).stdout

    assert login(PATH="/x", CLOISTER_LOGIN_PATH="/opt/a b:/x") == "/opt/a b:/x\ngone\n"
    assert login(PATH="/x", CLOISTER_LOGIN_PATH="") == login(PATH="/x") == "/bin\ngone\n"


def test_equal_content_is_built_once_and_other_content_beside_it(host: Path) -> None:
    """A layer never changes. The same input gives the same path; another input gives another one, and the first stays."""
    first = _build(host)
    before = first.path.stat().st_ctime_ns
    assert _build(host).path == first.path
    assert first.path.stat().st_ctime_ns == before
    assert _build(host, resolver="10.0.0.2").path != first.path
    assert _read(first, "etc/resolv.conf").startswith("nameserver 10.0.0.1\n")


def test_the_tree_has_ordinary_modes_and_the_mount_points(host: Path) -> None:
    """Directories are 0755, so that merged ones keep Debian's mode. /usr and /home have no files of the layer."""
    layer = _build(host)
    assert {path.stat().st_mode & 0o777 for path in (layer.path, *layer.path.rglob("*")) if path.is_dir()} == {0o755}
    assert sorted(path.name for path in (layer.path / ".cloister").iterdir()) == ["agent", "cgroup", "rt"]
    assert sorted(path.name for path in layer.path.iterdir()) == [".cloister", "etc"]


def test_what_it_lays_over_is_known(host: Path) -> None:
    """All files by their path in a sandbox, and the directory of local certificates, without the mount points."""
    found = overlaid_files(_build(host).path)
    assert {"etc/pip.conf", "etc/resolv.conf", "etc/ssl/certs/ca-certificates.crt", "etc/ca-certificates/host"} <= set(found)
    assert not [name for name in found if ".cloister/" in name or (name.endswith(".crt") and "host/" in name)]
    assert len(found) == len(set(found))
    (host / "site").mkdir()
    (host / "site" / "file").touch()
    assert overlaid_files(host) == ()


def test_another_distribution_gives_no_apt_sources(host: Path) -> None:
    """The mirrors of a host that is no Debian are not handed to a Debian template."""
    _write(host, "etc/os-release", "ID=ubuntu\nVERSION_CODENAME=noble\n")
    _write(host, "etc/apt/sources.list", "deb http://mirror.example/debian noble main\n")
    assert not (_build(host).path / "etc/apt").exists()


def test_apt_of_another_release_gets_no_sources_of_this_one(host: Path) -> None:
    """The host's mirrors serve the Debian release of the layers below. Other systems keep their own sources."""
    _write(host, "etc/os-release", "ID=debian\nVERSION_CODENAME=trixie\n")
    _write(host, "etc/apt/sources.list", "deb http://mirror.example/debian trixie main\n")
    layer = _build(host)
    sources = "etc/apt/sources.list.d/debian.sources"
    assert "Suites: trixie" in (layer.over("base/system") / sources).read_text()
    assert "Suites: bookworm" in (layer.over("bookworm/system") / sources).read_text()
    for other in ("image/0123456789ab", ""):
        assert not (layer.over(other) / sources).exists()
        assert (layer.over(other) / "etc/pip.conf").read_text() == (layer.path / "etc/pip.conf").read_text()
