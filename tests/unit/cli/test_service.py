"""The systemd units: a stop ends no sandbox, nothing takes the server's kernel objects from it, and systemd reads them."""

from __future__ import annotations

import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import pytest

from cloister.cli.main import main
from cloister.cli.units import MARK, UNUSED_CAPABILITIES, refresh_timer, refresh_unit, service_unit, socket_unit
from cloister.errors import InvalidRequestError
from cloister.node.trees_in_use import note_server
from cloister.processes.launcher import LONGEST_STOP_S

PROGRAM = Path("/opt/cloister/.venv/bin/cloister")


class Unit(RawConfigParser):
    """Keeps the case of keys. A key that comes twice is an error."""

    def optionxform(self, optionstr: str) -> str:
        """As it is."""
        return optionstr


def parsed(text: str) -> Unit:
    """The unit's sections."""
    unit = Unit(delimiters=("=",), comment_prefixes=("#",))
    unit.read_string(text)
    return unit


def test_a_stop_ends_no_sandbox() -> None:
    """The processes, which systemd v1 counts as the unit's, are not signalled, and their control groups are left alone."""
    service = parsed(service_unit(PROGRAM))["Service"]
    assert service["ExecStart"] == f"{PROGRAM} serve"
    assert service["KillMode"] == "process"
    assert service["Delegate"] == "yes"
    assert service["OOMPolicy"] == "continue"
    assert service["TasksMax"] == "infinity"
    assert service["Environment"] == "CLOISTER_ON_STOP=keep"
    assert int(service["TimeoutStopSec"]) == LONGEST_STOP_S


def test_wrong_settings_are_not_tried_again() -> None:
    """Any other fault is."""
    service = parsed(service_unit(PROGRAM))["Service"]
    assert (service["Restart"], service["RestartPreventExitStatus"]) == ("on-failure", "2")


def test_the_server_sees_the_host() -> None:
    """No line gives it other mounts, a filter that sandboxes would inherit, or another user: it makes sandboxes from the host's."""
    service = parsed(service_unit(PROGRAM))["Service"]
    refused = ("Private", "Protect", "ReadOnly", "RootDirectory", "Ambient", "User", "NoNewPrivileges", "SystemCall", "Restrict", "Lock")
    assert not [key for key in service if key.startswith(refused) and not key.startswith("RestartPrevent")]
    assert service["CapabilityBoundingSet"] == "~" + " ".join(UNUSED_CAPABILITIES)


def test_it_is_printed_for_this_installation(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """With the path of the command beside this interpreter, and the file of settings."""
    for words in ((), ("print",)):
        assert main(["service", *words, "--config", str(tmp_path / "c.toml")]) == 0
        start = parsed(capsys.readouterr().out)["Service"]["ExecStart"]
        assert start.endswith(f"/bin/cloister serve --config {tmp_path}/c.toml")
        assert start.startswith("/")


def test_a_path_that_systemd_would_misread_is_refused() -> None:
    """Spaces and percent signs have a meaning in units."""
    for path in (Path("/opt/my server/cloister"), Path("/opt/100%/cloister")):
        with pytest.raises(InvalidRequestError, match="misread"):
            service_unit(path)


def test_the_socket_has_the_addresses_of_the_settings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Those of the file alone: the service does not see the variables of a shell."""
    (tmp_path / "c.toml").write_text('listen = "localhost:3001"\nlisten_tls = "[::1]:3443"\n')
    assert main(["service", "print-socket", "--config", str(tmp_path / "c.toml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("ListenStream=")] == ["ListenStream=127.0.0.1:3001", "ListenStream=[::1]:3443"]


@pytest.mark.parametrize(("listen", "word"), [("sandboxes.example.com:3000", "name"), ("127.0.0.1:0", "free port")])
def test_an_address_that_systemd_cannot_listen_on_is_refused(listen: str, word: str) -> None:
    """It resolves no names, and a free port would be another one after each start."""
    with pytest.raises(InvalidRequestError, match=word):
        socket_unit(listen)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this machine has no systemd-analyze")
def test_systemd_reads_them(tmp_path: Path) -> None:
    """No line is unknown or malformed."""
    (tmp_path / "cloister.service").write_text(service_unit(Path("/bin/true")))
    (tmp_path / "cloister.socket").write_text(socket_unit("127.0.0.1:3000", "[::1]:443"))
    (tmp_path / "cloister-refresh.service").write_text(refresh_unit(Path("/bin/true")))
    (tmp_path / "cloister-refresh.timer").write_text(refresh_timer())
    command = ["systemd-analyze", "verify", "--man=no", *map(str, tmp_path.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "cloister." not in done.stderr + done.stdout, done.stderr
    assert done.returncode == 0, done.stderr


def test_the_files_in_deploy_are_the_units_of_the_package() -> None:
    """For those who install them by hand; they are the ones that `service print` prints for /usr/bin/cloister."""
    program, directory = Path("/usr/bin/cloister"), Path(__file__).parents[3] / "deploy" / "systemd"
    units = {
        "cloister.service": service_unit(program),
        "cloister.socket": socket_unit("127.0.0.1:3000"),
        "cloister-refresh.service": refresh_unit(program),
        "cloister-refresh.timer": refresh_timer(),
    }
    assert {path.name: path.read_text() for path in directory.iterdir()} == units


def test_a_refresh_gives_way_to_sandboxes(tmp_path: Path) -> None:
    """It runs once, with the file of settings, at low priority; the timer makes up for a night that was missed."""
    service = parsed(refresh_unit(PROGRAM, tmp_path / "c.toml"))["Service"]
    assert service["ExecStart"] == f"{PROGRAM} template refresh --config {tmp_path}/c.toml"
    assert (service["Type"], service["Nice"], service["IOSchedulingClass"], service["Delegate"]) == ("oneshot", "10", "idle", "yes")
    assert parsed(refresh_timer())["Timer"]["Persistent"] == "true"


def test_units_of_others_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An administrator's own unit is not replaced, and not removed."""
    own = tmp_path / "cloister.service"
    own.write_text("[Service]\nExecStart=/bin/true\n")
    assert main(["service", "install", "--unit-dir", str(tmp_path)]) == 1
    assert "not a unit of this command" in capsys.readouterr().err
    places = [word for name in ("data", "store", "run") for word in (f"--{name}-dir", str(tmp_path / name))]
    assert main(["service", "uninstall", "--unit-dir", str(tmp_path), *places]) == 0
    assert own.read_text().startswith("[Service]")


def test_an_uninstallation_removes_the_units_and_keeps_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With ``--purge`` the data goes too."""
    units, data, store = (tmp_path / name for name in ("units", "data", "store"))
    assert main(["service", "install", "--unit-dir", str(units)]) == 0
    assert all(path.read_text().startswith(MARK) for path in units.iterdir())
    for path in (data / "node", store / "layers"):
        path.mkdir(parents=True)
    command = ["service", "uninstall", "--unit-dir", str(units), "--data-dir", str(data), "--store-dir", str(store)]
    command += ["--run-dir", str(tmp_path / "run")]
    assert main(command) == 0
    assert not list(units.iterdir())
    assert f"kept {store}" in capsys.readouterr().out
    assert store.is_dir()
    assert main([*command, "--purge"]) == 0
    assert not store.exists()
    assert not data.exists()


def test_an_uninstallation_is_of_the_data_that_the_service_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit names the configuration file, so the command need not."""
    for name in ("CLOISTER_DATA_DIR", "CLOISTER_STORE_DIR", "CLOISTER_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)  # it would win over the file, and the store of all tests would be removed
    data, config = tmp_path / "data", tmp_path / "cloister.toml"
    (data / "node").mkdir(parents=True)
    config.write_text(f'data_dir = "{data}"\nstore_dir = "{tmp_path}/store"\nrun_dir = "{tmp_path}/run"\n')
    (tmp_path / "cloister.service").write_text(service_unit(Path("/usr/bin/cloister"), config))
    assert main(["service", "uninstall", "--purge", "--unit-dir", str(tmp_path)]) == 0
    assert not data.exists()


def test_a_store_of_several_servers_stays_inside_a_purged_data_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By default the store lies in the data directory of one server, and the others of the host use it too."""
    data, store, other = tmp_path / "data", tmp_path / "data" / "store", tmp_path / "other"
    for path in (data / "node", data / "api", store / "layers", other / "node"):
        path.mkdir(parents=True)
    note_server(store, other)
    places = ["--data-dir", str(data), "--store-dir", str(store), "--run-dir", str(tmp_path / "run")]
    command = ["service", "uninstall", "--unit-dir", str(tmp_path / "units"), *places, "--purge"]
    assert main(command) == 0
    assert "also the store of" in capsys.readouterr().out
    assert (store / "layers").is_dir()
    assert list(data.iterdir()) == [store]
    shutil.rmtree(other)
    assert main(command) == 0
    assert not data.exists()


def test_no_unit_is_written_beside_one_of_others(tmp_path: Path) -> None:
    """A refused installation leaves nothing that could start half of it."""
    (tmp_path / "cloister.socket").write_text("[Socket]\n")
    assert main(["service", "install", "--unit-dir", str(tmp_path)]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["cloister.socket"]
