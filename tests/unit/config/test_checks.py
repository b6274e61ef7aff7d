"""Settings that contradict sense or each other are refused before anything starts: the table of bad values, by the real command line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cloister.cli.main import main
from cloister.config.checks import LANGUAGES, RANGES, find_faults
from cloister.config.load import load
from cloister.config.settings import SETTINGS, Settings
from cloister.errors import SettingsError
from cloister.protocol.languages import NATIVE_LANGUAGES

BAD = [
    (("default_runtime=kvm",), "default_runtime.*must be one of namespace, gvisor, auto"),
    (("gvisor_kernels=java,perl",), "gvisor_kernels.*'perl' is no language.*python, javascript"),
    (("forbidden_runtimes=kvm",), "forbidden_runtimes.*'kvm' is no runtime.*namespace, gvisor"),
    (("forbidden_runtimes=namespace,gvisor", "default_runtime=auto"), "forbidden_runtimes.*leaves no runtime"),
    (("forbidden_runtimes=namespace",), "default_runtime .*namespace is one of forbidden_runtimes"),
    (("team_runtimes=team",), "team_runtimes.*'team' is not TEAM-ID=RUNTIME"),
    (("team_runtimes==gvisor",), "team_runtimes.*'=gvisor' is not TEAM-ID=RUNTIME"),
    (("team_runtimes=team=kvm",), "team_runtimes.*'team=kvm' is not"),
    (("team_runtimes=team=gvisor", "forbidden_runtimes=gvisor"), "team_runtimes.*gvisor is one of forbidden_runtimes"),
    (("dns_upstreams=banana",), "dns_upstreams.*'banana' is not an address"),
    (("dns_upstreams=1.1.1.1,9.9.9.9:99999",), "dns_upstreams.*port out of range"),
    (("listen=127.0.0.1:99999",), "listen .*a port is at most 65535"),
    (("listen=127.0.0.1",), "listen .*is not HOST:PORT"),
    (("listen=a b:1",), "listen .*neither an address nor a name"),
    (("listen=127.0.0.1:3000", "listen_tls=0.0.0.0:3000"), "listen_tls.*also the address of listen"),
    (("listen_tls=elsewhere:1",), "does not begin with an IP address"),
    (("tls_cert_file=/x",), "tls_key_file.*must be given together"),
    (("tls_cert_file=/x", "tls_key_file=/y"), "no listener uses it"),
    (("domain=a_b",), "domain.*is not a domain name"),
    (("domain=a.example:0",), "domain.*is not a domain name"),
    (("listen=0.0.0.0:3000",), r"domain \(default\): listen 0.0.0.0:3000 is reached from other machines.*or headers-only"),
    (("listen=[::]:3000",), "domain.*reached from other machines"),
    (("listen=myhost:3000",), "domain.*reached from other machines"),
    (("listen_tls=192.0.2.1:8443",), "domain.*listen_tls 192.0.2.1:8443 is reached from other machines"),
    (("network_cidr=10.20.0.0/24",), "network_cidr.*too small"),
    (("network_cidr=10.0.0.0/7",), "network_cidr.*(host bits|too large)"),
    (("network_cidr=8.8.0.0/16",), "network_cidr.*not a private network"),
    (("network_cidr=127.0.0.0/16",), "network_cidr.*not a private network"),
    (("network_cidr=10.20.0.0",), "network_cidr.*too small"),
    (("allow_private=10.1.0.0/33",), "allow_private.*not an IPv4 network"),
    (("allow_private=127.0.0.0/8",), "allow_private.*loopback"),
    (("allow_private=169.254.169.254/32",), "allow_private.*link-local"),
    (("allow_private=0.0.0.0/0",), "allow_private.*list only the networks"),
    (("network_cidr=10.20.0.0/16", "allow_private=10.20.1.0/24"), "allow_private.*sandboxes' own network"),
    (("trusted_proxies=banana",), "trusted_proxies.*does not appear to be"),
    (("trusted_proxies=0.0.0.0/0",), "trusted_proxies.*every address"),
    (("head_timeout_s=0.1",), "head_timeout_s.*too small; give 1 to 600"),
    (("default_cpu_count=0.0001",), "default_cpu_count.*too small; give 0.01 to"),
    (("default_cpu_count=nan",), "default_cpu_count.*finite number; give 0.01 to"),
    (("metrics_interval_s=inf",), "metrics_interval_s.*finite"),
    (("default_mem_mib=1e3",), "default_mem_mib.*whole number; give 64 to 16,777,216"),
    (("default_mem_mib=-5",), "default_mem_mib.*must be positive; give 64 to"),
    (("default_mem_mib=99999999999999999999",), "default_mem_mib.*too large"),
    (("max_mem_mib=100",), "default_mem_mib.*is above max_mem_mib, 100"),
    (("max_cpu_count=1", "default_cpu_count=1.5"), "default_cpu_count.*is above max_cpu_count"),
    (("max_disk_mib=100",), "default_disk_mib.*is above max_disk_mib"),
    (("start_timeout_s=61",), "start_timeout_s.*too large; give 1 to 60"),
    (("build_timeout_s=100",), "ready_timeout_s.*is above build_timeout_s"),
    (("log_total_mib=1", "log_sandbox_kib=2048"), "log_sandbox_kib.*above log_total_mib"),
    (("max_upload_mib=99999",), "max_upload_mib.*is above upload_total_mib"),
    (("run_dir=/" + "r" * 100,), "run_dir.*Linux allows 107"),
    (("data_dir=/",), "data_dir.*root directory"),
    (("store_dir=/a/../b",), "store_dir.*holds '..'"),
    (("data_dir=/tmp/x", "store_dir=/tmp/x"), "data_dir.*is store_dir too"),
    (("on_stop=perhaps",), "on_stop.*must be one of"),
    (("zygotes=maybe",), "zygotes.*true or false"),
]


@pytest.mark.parametrize(("given", "said"), BAD, ids=["+".join(given)[:60] for given, _ in BAD])
def test_a_bad_value_is_refused_in_one_line(given: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``serve`` names the setting, where it came from, the cause and the remedy, and leaves with exit code 2."""
    words = [word for text in given for word in ("--" + text.partition("=")[0].replace("_", "-"), text.partition("=")[2])]
    where = [] if any(text.startswith("data_dir") for text in given) else ["--data-dir", str(tmp_path / "data")]
    assert main(["serve", *where, *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert any(re.search(said, line) for line in lines), lines
    assert all(line.startswith("cloister: setting ") for line in lines)
    assert not (tmp_path / "data").exists()


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    """The real command tells every fault of file, environment and command line together, unknown names with the nearest known one."""
    file = tmp_path / "c.toml"
    file.write_text('listn = "x"\ndns_upstreams = ["banana"]\ndefault_cpu_count = 0.0001\n[section]\nkey = 1\n')
    environ = {"PATH": "/usr/bin:/bin", "CLOISTER_LISTN": "1", "CLOISTER_MAX_MEM_MIB": "soon"}
    command = [sys.executable, "-m", "cloister.cli.main", "serve", "--config", str(file), "--listen", "127.0.0.1:99999"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    for part in (
        "unknown setting in " + str(file) + ": listn (did you mean listen?)",
        "unknown setting in " + str(file) + ": section",
        "unknown setting in environment: CLOISTER_LISTN (did you mean CLOISTER_LISTEN?)",
        "setting max_mem_mib (environment): 'soon' must be a whole number",
        f"setting dns_upstreams ({file}): ",
        f"setting default_cpu_count ({file}): ",
        "setting listen (command line): ",
    ):
        assert sum(part in line for line in lines) == 1, (part, lines)
    assert len(lines) == 7


def test_a_wrong_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A settings file that is no TOML, a directory, or not there is refused with its path."""
    broken = tmp_path / "broken.toml"
    broken.write_text("listen = ")
    for path in (broken, tmp_path, tmp_path / "missing.toml"):
        assert main(["env", "--config", str(path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_defaults_have_no_fault() -> None:
    """The settings that hold when none is given pass."""
    assert find_faults(Settings()) == []
    assert load(None, {}) == Settings()


def test_other_machines_are_served_with_a_domain_or_by_a_choice() -> None:
    """A listener on all addresses starts with a domain, or with the word that there is none; a loopback listener needs neither."""
    for domain in ("sbx.example.com", "headers-only"):
        assert find_faults(Settings(listen="0.0.0.0:3000", domain=domain)) == []
    for listen in ("127.0.0.1:1", "127.1.2.3:1", "[::1]:1", "localhost:1"):
        assert find_faults(Settings(listen=listen)) == []


def test_every_quantity_has_a_range() -> None:
    """A setting that is a number is bounded on both sides, and its default is within."""
    quantities = {setting.name for setting in SETTINGS if setting.kind in {"integer", "number"}}
    assert quantities == set(RANGES)


def test_a_fault_hides_no_other(tmp_path: Path) -> None:
    """Faults of further checks are reported with those of values, except for settings whose value could not be parsed."""
    with pytest.raises(SettingsError) as caught:
        load(None, {"CLOISTER_MAX_MEM_MIB": "x", "CLOISTER_DOMAIN": "-"}, lambda _: [])
    assert len(caught.value.faults) == 2


def test_the_languages_of_settings_are_those_of_the_table() -> None:
    """The settings cannot import the table."""
    assert tuple(language.name for language in NATIVE_LANGUAGES) == LANGUAGES
