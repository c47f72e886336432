"""The event log's URL may hold a password, which nothing that is shown does."""

from __future__ import annotations

from traceback import format_exception
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from godwit.cli.up import _ready_line
from godwit.runtime import service
from godwit.runtime.config import ConfigError, Service, load
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.values import without_credentials
from godwit_protocol.errors import InvalidInputError, UnreachableError
from nats_cluster import free_port

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("urls", "shown"),
    [
        ("nats://nats:4222", "nats://nats:4222"),
        (f"nats://godwit:{SECRET}@nats:4222", "nats://nats:4222"),
        (f"nats://{SECRET}@nats", "nats://nats"),
        (f"nats://a:{SECRET}@one:1,tls://b:{SECRET}@two:2", "nats://one:1,tls://two:2"),
        (f"nats://a:{SECRET}@one,two:2", "nats://one,two:2"),
        (f"nats://a:p@{SECRET}@one:1", "nats://one:1"),
        (f"nats://a:p,{SECRET}/@one:1", "nats://one:1"),
        (f"a:{SECRET}@one:1", "one:1"),
    ],
)
def test_only_where_it_is_is_left_of_a_url(urls: str, shown: str) -> None:
    assert without_credentials(urls) == shown


def test_a_variable_that_is_wrong_is_shown_without() -> None:
    with pytest.raises(ConfigError) as raised:
        load(Service.COORDINATOR, {"GODWIT_NATS_URL": f"nats://a:{SECRET}/@one:port"})
    assert "'nats://one:port'" in raised.value.message
    assert SECRET not in "".join(format_exception(raised.value))
    assert SECRET not in f"{raised.value.message} {raised.value.value} {raised.value!r}"


async def test_errors_of_the_connection_are_without() -> None:
    with pytest.raises(InvalidInputError) as wrong:
        await NatsLog.connect(f"nats://a:{SECRET}/@one", name="test")
    silent = f"nats://a:{SECRET}@127.0.0.1:{free_port()}"
    with pytest.raises(UnreachableError) as unreachable:
        await NatsLog.connect(silent, name="test", timeout_s=0.1)
    assert "nats://one" in wrong.value.message
    assert SECRET not in "".join(format_exception(wrong.value))
    assert "nats://127.0.0.1" in unreachable.value.message
    assert SECRET not in f"{wrong.value.message} {unreachable.value.message}"


async def test_a_service_that_waits_says_where_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "CONNECT_TRIES_MAX", 2)
    monkeypatch.setattr(service, "CONNECT_TRY_S", 0.1)
    monkeypatch.setattr(service, "CONNECT_WAIT_S", 0.0)
    url = f"nats://a:{SECRET}@127.0.0.1:{free_port()}"
    config = load(Service.COORDINATOR, {"GODWIT_NATS_URL": url})
    with capture_logs() as logged, pytest.raises(UnreachableError):
        await service.connect(Service.COORDINATOR, config)
    assert [line["event"] for line in logged if "url" in line] == ["waiting for the event log"]
    assert SECRET not in str(logged)


def test_a_cluster_that_is_ready_says_where_and_no_more() -> None:
    class Ready:
        hosts, directory, page_url = ("host-1",), "/tmp/godwit", "http://127.0.0.1:1/"
        nats_url, watch_url = f"nats://a:{SECRET}@one:1", ""

    line = _ready_line(cast(Any, Ready()))
    assert line.startswith("ready: nats://one:1 (")
    assert SECRET not in line
