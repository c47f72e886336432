"""A supervised process, with the launcher as the process: it starts fast and needs no event log."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from godwit.local_cluster import cluster, supervised
from godwit.local_cluster.cluster import Cluster
from godwit.local_cluster.supervised import Program, Supervised, accepts_on
from godwit.runtime.nats_server import NatsServer
from godwit_protocol.errors import ConflictError, DeadlineError, InvalidInputError, UnreachableError

WAIT_S = 20.0


class Reports:
    """What was reported, to be waited for."""

    def __init__(self) -> None:
        self._lines: asyncio.Queue[str] = asyncio.Queue(100)

    def __call__(self, line: str) -> None:
        self._lines.put_nowait(line)

    async def next(self) -> str:
        async with asyncio.timeout(WAIT_S):
            return await self._lines.get()


@pytest.fixture
def reports() -> Reports:
    return Reports()


def launcher(directory: Path, reports: Reports, *, socket: str = "launcher.sock") -> Supervised:
    environ = {**os.environ, "GODWIT_HOST_DIR": str(directory)}
    log = directory / "log"
    ready = accepts_on(directory / socket)
    return Supervised(Program("it", ("godwit.hypervisor.native",), environ, log, ready), reports)


async def test_it_is_ready_when_started_and_gone_when_stopped(
    tmp_path: Path, reports: Reports
) -> None:
    process = launcher(tmp_path, reports)
    await process.start()
    assert await process.program.is_ready(process.pid)
    with pytest.raises(ConflictError):
        await process.start()
    await process.stop()
    assert not await process.program.is_ready(0)
    with pytest.raises(UnreachableError):
        _ = process.pid
    await process.stop()


async def test_it_is_ready_also_where_its_socket_has_a_long_path(
    tmp_path: Path, reports: Reports
) -> None:
    deep = tmp_path / ("deep" * 30)
    deep.mkdir()
    process = launcher(deep, reports)
    await process.start()
    await process.stop()


class DyingServer(NatsServer):
    """An event log that ends so many times, and then no more."""

    def __init__(self, times: int) -> None:
        self.left, self.is_up = times, True
        self.stays_up = asyncio.Event()

    async def wait(self) -> int:
        if not self.left:
            self.stays_up.set()
            await asyncio.Event().wait()
        self.left, self.is_up = self.left - 1, False
        return 1

    async def restart(self) -> None:
        self.is_up = True


@pytest.mark.parametrize(("times", "is_left_down"), [(2, False), (3, True)])
async def test_an_event_log_is_called_down_when_it_is_and_not_before(
    times: int,
    is_left_down: bool,
    tmp_path: Path,
    reports: Reports,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "RESTARTS_IN_A_ROW_MAX", 2)
    monkeypatch.setattr(cluster, "RESTART_WAIT_S_MIN", 0.0)
    server = DyingServer(times)
    watcher = asyncio.create_task(Cluster(tmp_path, [], "", reports)._watch_nats(server))
    for _ in range(2):
        assert "restarting it" in await reports.next()
    if is_left_down:
        assert "left down" in await reports.next()
        await watcher
    else:
        async with asyncio.timeout(WAIT_S):
            await server.stays_up.wait()
        watcher.cancel()
    assert server.is_up is not is_left_down


async def test_a_directory_that_cannot_be_one_is_what_was_given_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInputError, match="no cluster can be in") as raised:
        await Cluster.start(tmp_path / "file" / "cluster")
    assert "--dir" in raised.value.hint


async def test_it_is_restarted_when_it_dies(tmp_path: Path, reports: Reports) -> None:
    process = launcher(tmp_path, reports)
    await process.start()
    first = process.pid
    os.kill(first, signal.SIGKILL)
    assert await reports.next() == "it ended with status -9; restarting it in 0.2 s"
    assert await reports.next() == "it is back"
    assert process.pid != first
    await process.stop()


async def test_it_stays_down_when_it_is_killed_on_purpose(tmp_path: Path, reports: Reports) -> None:
    process = launcher(tmp_path, reports)
    await process.start()
    await process.signal(signal.SIGKILL)
    with pytest.raises(UnreachableError):
        _ = process.pid
    await process.start()
    assert await process.program.is_ready(process.pid)
    await process.stop()


async def test_one_that_is_frozen_is_stopped_too(tmp_path: Path, reports: Reports) -> None:
    process = launcher(tmp_path, reports)
    await process.start()
    await process.signal(signal.SIGSTOP)
    async with asyncio.timeout(WAIT_S):
        await process.stop()
    with pytest.raises(UnreachableError):
        _ = process.pid


async def test_one_that_ends_at_once_is_an_error_with_its_last_words(
    tmp_path: Path, reports: Reports
) -> None:
    process = launcher(Path("/proc/no-such-place"), reports)
    process.program = Program(
        "it", process.program.module, process.program.environ, tmp_path / "log", never_ready
    )
    with pytest.raises(UnreachableError, match="it ended with status") as caught:
        await process.start()
    assert "/proc/no-such-place" in caught.value.hint


async def test_one_that_is_never_ready_is_an_error(
    tmp_path: Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised, "READY_S_MAX", 0.3)
    process = launcher(tmp_path, reports, socket="another.sock")
    with pytest.raises(DeadlineError, match="not ready"):
        await process.start()
    await process.stop()


async def never_ready(_pid: int) -> bool:
    return False
