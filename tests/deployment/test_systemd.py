"""What must be true of the unit files in ``deploy/systemd``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from compose_file import ROOT, is_runnable

from godwit.runtime import config
from godwit.runtime.config import Service

DIRECTORY = ROOT / "deploy/systemd"
UNITS = sorted(DIRECTORY.glob("*.service"))
LAUNCHER, PROVISION = "godwit.hypervisor.native", "godwit.runtime.provision"
KNOWN = {row.name for row in config.rows()}


def _settings(unit: Path) -> list[tuple[str, str]]:
    lines = [line for line in unit.read_text().splitlines() if re.match(r"\w+=", line)]
    return [tuple(line.split("=", 1)) for line in lines]


def _variables(file: Path) -> dict[str, str]:
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_every_service_has_a_unit() -> None:
    assert {unit.stem for unit in UNITS} == {
        *("godwit-provision", "godwit-coordinator", "godwit-gpu-state-tracker", "godwit-monitor"),
        *("godwit-launcher", "godwit-source-host", "godwit-destination-host"),
    }


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_every_unit_runs_a_module_that_exists(unit: Path) -> None:
    command = dict(_settings(unit))["ExecStart"].split()
    assert command[:3] == ["/opt/godwit/bin/python", "-P", "-m"]
    assert is_runnable(command[3])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_every_unit_is_confined(unit: Path) -> None:
    settings = dict(_settings(unit))
    assert settings["User"] == "godwit"
    assert settings["CapabilityBoundingSet"] == ""
    assert settings["NoNewPrivileges"] == "yes"
    assert "PrivateUsers" not in settings, "the source host reads other processes' page tables"


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_every_variable_of_a_unit_is_known(unit: Path) -> None:
    given = [value.partition("=")[0] for name, value in _settings(unit) if name == "Environment"]
    assert set(given) <= KNOWN


def test_every_service_s_metrics_have_a_port_of_their_own() -> None:
    """One host may run them all."""
    named = [dict(_settings(unit)) for unit in UNITS]
    ports = [
        value.partition("=")[2]
        for unit in UNITS
        for name, value in _settings(unit)
        if name == "Environment" and value.startswith("GODWIT_HEALTH_PORT=")
    ]
    modules = {each["ExecStart"].split()[-1] for each in named}
    assert len(set(ports)) == len(ports) == len(modules - {LAUNCHER, PROVISION})
    page = (ROOT / "docs/deployment.md").read_text()
    assert [port for port in ports if f"| {port} |" not in page] == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_what_runs_for_ever_is_started_again_for_ever(unit: Path) -> None:
    """systemd gives up on what fails five times within ten seconds, if it is not told otherwise."""
    before, _, _ = unit.read_text().partition("[Service]")
    runs_on = ("Restart", "always") in _settings(unit)
    assert runs_on == (unit.stem != "godwit-provision")
    assert ("StartLimitIntervalSec=0" in before.splitlines()) == runs_on


def test_machines_outlive_the_launcher_s_unit_and_nothing_else() -> None:
    surviving = [unit.stem for unit in UNITS if ("KillMode", "process") in _settings(unit)]
    assert surviving == ["godwit-launcher"]
    assert ("OOMPolicy", "continue") in _settings(DIRECTORY / "godwit-launcher.service")


@pytest.mark.parametrize("reader", [Service.SOURCE_HOST, Service.DESTINATION_HOST])
def test_the_example_files_make_a_configuration(reader: Service) -> None:
    given = {**_variables(DIRECTORY / "godwit.env"), **_variables(DIRECTORY / "host.env")}
    assert set(given) <= KNOWN
    assert config.load(reader, given).host == "host-1"
