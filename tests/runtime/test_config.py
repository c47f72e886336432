from __future__ import annotations

import logging
from pathlib import Path

import pytest

from godwit.runtime.choices import LogFormat
from godwit.runtime.config import WRITERS, Service, load, rows
from godwit.runtime.variable import ConfigError

HOST = {"GODWIT_HOST": "host-1"}


def test_defaults_are_enough_for_every_service_but_a_hosts() -> None:
    for service in set(Service) - {Service.SOURCE_HOST, Service.DESTINATION_HOST}:
        config = load(service, {})
        assert config.nats_url == "nats://127.0.0.1:4222"
        assert config.log_level == logging.INFO
    assert not any(load(writer, HOST).tracing for writer in WRITERS), "nothing leaves unasked"


@pytest.mark.parametrize("service", [Service.SOURCE_HOST, Service.DESTINATION_HOST])
def test_a_host_service_must_know_its_host(service: Service) -> None:
    with pytest.raises(ConfigError, match="GODWIT_HOST is not set") as error:
        load(service, {"GODWIT_HOST": ""})
    assert error.value.variable == "GODWIT_HOST"
    assert load(service, HOST).host == "host-1"


def test_everything_given_is_taken() -> None:
    given = {
        **HOST,
        "GODWIT_NATS_URL": "nats://nats.example:4333",
        "GODWIT_DIR": "/var/lib/godwit",
        "GODWIT_GPUS": "H100-80GB:2, L40S-48GB",
        "GODWIT_LINK_HOST": "10.0.0.7",
        "GODWIT_LINK_PORT": "7000",
        "GODWIT_OMIT_ZEROS": "off",
        "GODWIT_CONTENT_STORE": "off",
        "GODWIT_CONTENT_DIR": "/srv/models",
        "GODWIT_BULK_CONNECTIONS": "4",
        "GODWIT_HEALTH_HOST": "0.0.0.0",
        "GODWIT_HEALTH_PORT": "8080",
        "GODWIT_LOG_LEVEL": "Debug",
        "GODWIT_LOG_FORMAT": "json",
    }
    source = load(Service.SOURCE_HOST, given)
    assert source.gpus == ("H100-80GB", "H100-80GB", "L40S-48GB")
    assert source.bulk_connections == 4
    assert source.omit_zeros is False
    config = load(Service.DESTINATION_HOST, given)
    assert config.host_directory == Path("/var/lib/godwit/hosts/host-1")
    assert (config.link_host, config.link_port) == ("10.0.0.7", 7000)
    assert (config.health_host, config.health_port) == ("0.0.0.0", 8080)
    assert (config.content_store, config.content_directory) == (False, Path("/srv/models"))
    assert config.log_level == logging.DEBUG
    assert config.log_format is LogFormat.JSON


def test_what_saves_bytes_is_on_and_can_be_switched_off() -> None:
    config = load(Service.SOURCE_HOST, HOST)
    assert (config.omit_rewritten, config.let_hot_wait) == (True, True)
    off = {"GODWIT_OMIT_REWRITTEN": "off", "GODWIT_LET_HOT_WAIT": "off"}
    config = load(Service.SOURCE_HOST, HOST | off)
    assert (config.omit_rewritten, config.let_hot_wait) == (False, False)


def test_the_number_of_connections_is_measured_unless_it_is_given() -> None:
    assert load(Service.SOURCE_HOST, HOST).bulk_connections == 0
    given = load(Service.SOURCE_HOST, {**HOST, "GODWIT_BULK_CONNECTIONS": "auto"})
    assert given.bulk_connections == 0


def test_the_directory_follows_the_runtime_directory() -> None:
    environ = {"XDG_RUNTIME_DIR": "/run/user/7", **HOST}
    config = load(Service.SOURCE_HOST, environ)
    assert config.directory == Path("/run/user/7/godwit")
    assert config.host_directory == Path("/run/user/7/godwit/hosts/host-1")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GODWIT_NATS_URL", "127.0.0.1"),
        ("GODWIT_NATS_URL", "http://127.0.0.1"),
        ("GODWIT_NATS_URL", "nats://127.0.0.1:port"),
        ("GODWIT_NATS_URL", "nats://127.0.0.1:4222,"),
        ("GODWIT_HOST", "Host_1"),
        ("GODWIT_GPUS", "H100-80GB:x"),
        ("GODWIT_GPUS", "H100-80GB:0"),
        ("GODWIT_GPUS", "H100-80GB:65"),
        ("GODWIT_GPUS", ":2"),
        ("GODWIT_LINK_PORT", "65536"),
        ("GODWIT_BULK_CONNECTIONS", "0"),
        ("GODWIT_HEALTH_PORT", "-1"),
        ("GODWIT_HEALTH_HOST", "a b"),
        ("GODWIT_LOG_LEVEL", "loud"),
        ("GODWIT_LOG_FORMAT", "xml"),
    ],
)
def test_what_is_wrong_is_named_with_its_value_and_what_is_allowed(
    variable: str, value: str
) -> None:
    (row,) = (row for row in rows() if row.name == variable)
    reader = Service(row.read_by[-1])
    with pytest.raises(ConfigError, match=variable) as error:
        load(reader, {**HOST, variable: value})
    assert error.value.value == value
    assert repr(value) in error.value.message
    assert error.value.hint.startswith("give ")


def test_a_service_has_nothing_of_what_it_does_not_read() -> None:
    config = load(Service.COORDINATOR, {"GODWIT_GPUS": "nonsense"})
    with pytest.raises(AttributeError):
        _ = config.gpus


@pytest.mark.parametrize(
    "service", [Service.COORDINATOR, Service.SOURCE_HOST, Service.DESTINATION_HOST]
)
def test_whoever_asks_for_proof_of_power_off_has_the_fencing_program(service: Service) -> None:
    config = load(service, {**HOST, "GODWIT_FENCE_COMMAND": "/sbin/fence --bmc"})
    assert config.fence_command == ("/sbin/fence", "--bmc")


def test_the_table_is_complete_and_each_row_says_what_it_is_for() -> None:
    table = rows()
    names = [row.name for row in table]
    assert len(set(names)) == len(names)
    assert all(row.name.startswith("GODWIT_") and row.doc and row.read_by for row in table)
    assert {"GODWIT_NATS_URL", "GODWIT_HOST_DIR", "GODWIT_TRACKER_ID"} <= set(names)
