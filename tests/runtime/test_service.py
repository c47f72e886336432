"""Services as processes: how they begin, wait, end, and with which exit code."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from godwit.runtime import service
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.nats_server import NatsServer
from godwit.runtime.service import OPEN_FILES_MAX
from godwit_protocol import subjects

PROBE = Path(__file__).with_name("probe_service.py")


@dataclass
class Probe:
    """A running process of ours."""

    name: str
    directory: Path
    process: asyncio.subprocess.Process

    async def end(self) -> tuple[int, list[dict[str, Any]]]:
        """Wait for the end; return the exit status and the log lines."""
        async with asyncio.timeout(20):
            _, errors = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, [json.loads(line) for line in errors.splitlines()]

    async def healthz(self) -> int:
        """The endpoint's status; 0 while there is none."""
        file = self.directory / "services" / "coordinator" / self.name / "health.json"
        with suppress(FileNotFoundError, ConnectionError):
            told = json.loads(file.read_text())
            reader, writer = await asyncio.open_connection(told["host"], told["port"])
            writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            return int(answer.split()[1])
        return 0

    async def until_healthz(self, status: int) -> None:
        async with asyncio.timeout(20):
            while await self.healthz() != status:  # noqa: ASYNC110  # another process's state
                await asyncio.sleep(0.02)


Start = Callable[..., Awaitable[Probe]]


@pytest_asyncio.fixture
async def start(nats_server: NatsServer, tmp_path: Path, unique_name: str) -> AsyncIterator[Start]:
    started: list[asyncio.subprocess.Process] = []

    async def begin(*command: str | Path, **environ: str) -> Probe:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            stderr=asyncio.subprocess.PIPE,
            env={
                **os.environ,
                "GODWIT_NATS_URL": nats_server.url,
                "GODWIT_DIR": str(tmp_path),
                "GODWIT_COORDINATOR_ID": unique_name,
                "GODWIT_LOG_FORMAT": "json",
                **environ,
            },
        )
        started.append(process)
        return Probe(unique_name, tmp_path, process)

    yield begin
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_a_service_in_order(
    start: Start, log: NatsLog, number: signal.Signals
) -> None:
    probe = await start(PROBE, "serve")
    told = log.tail([subjects.machine(probe.name, "probe", "*")])
    async with asyncio.timeout(20):
        assert (await anext(told)).subject.endswith(".began")
    await probe.until_healthz(200)
    probe.process.send_signal(number)
    status, lines = await probe.end()
    assert (status, lines[-1]["event"]) == (0, "stopped")
    assert {line["service"] for line in lines} == {"coordinator"}
    async with asyncio.timeout(5):
        assert (await anext(told)).subject.endswith(".ended")
    assert await probe.healthz() == 0


@pytest.mark.parametrize(
    ("act", "status", "message"),
    [
        ("refuse", 5, "no room on host-2"),
        ("lose_a_task", 5, "no room on host-2"),
        ("be_thrown_out", 8, "the connection to the event log was closed for good"),
    ],
)
async def test_a_typed_error_is_one_clear_line_and_its_exit_code(
    start: Start, act: str, status: int, message: str
) -> None:
    found, lines = await (await start(PROBE, act)).end()
    assert found == status
    assert lines[-1]["event"] == message
    assert lines[-1]["level"] == "critical"
    assert lines[-1]["hint"]
    assert not any("exception" in line for line in lines)


async def test_a_defect_shows_where_it_is(start: Start) -> None:
    status, lines = await (await start(PROBE, "break_down")).end()
    assert status == 70
    assert lines[-1]["exception"][0]["exc_value"] == "a defect"


async def test_a_service_may_have_as_many_open_files_as_it_can(start: Start) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    try:
        probe = await start(PROBE, "count_open_files")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    _, lines = await probe.end()
    assert lines[-1]["event"] == f"{min(hard, OPEN_FILES_MAX)} of {hard}"


@pytest.mark.parametrize("soft", [1024, 1 << 30])
def test_what_a_service_starts_is_not_allowed_a_billion_of_them(
    monkeypatch: pytest.MonkeyPatch, soft: int
) -> None:
    limits = [(soft, 1 << 30)]
    fake = SimpleNamespace(
        RLIMIT_NOFILE=resource.RLIMIT_NOFILE,
        getrlimit=lambda _: limits[-1],
        setrlimit=lambda _, pair: limits.append(pair),
    )
    monkeypatch.setattr(service, "resource", fake)
    service._allow_open_files()
    assert limits[-1] == (1 << 20, 1 << 30)


async def test_a_service_that_finishes_ends_with_its_tasks(start: Start) -> None:
    status, lines = await (await start(PROBE, "finish")).end()
    assert (status, lines[-1]["event"]) == (0, "finished")


async def test_a_service_that_does_not_let_go_is_ended(start: Start) -> None:
    probe = await start(PROBE, "hang_on")
    await probe.until_healthz(200)
    probe.process.terminate()
    status, lines = await probe.end()
    assert status == 9
    assert "did not stop" in lines[-1]["event"]


async def test_a_wrong_variable_is_named(start: Start) -> None:
    status, lines = await (await start(PROBE, "serve", GODWIT_HEALTH_PORT="many")).end()
    assert status == 2
    assert "GODWIT_HEALTH_PORT is 'many'" in lines[-1]["event"]


async def test_a_service_waits_for_the_log_and_says_so_to_the_health_check(
    start: Start, own_server: NatsServer
) -> None:
    await own_server.stop()
    probe = await start(PROBE, "hang_on", GODWIT_NATS_URL=own_server.url)
    await probe.until_healthz(503)
    await own_server.restart()
    await probe.until_healthz(200)
    await own_server.stop()
    await probe.until_healthz(503)


async def test_provision_is_a_job_that_can_be_repeated(
    start: Start, own_server: NatsServer
) -> None:
    for _ in range(2):
        job = await start("-m", "godwit.runtime.provision", GODWIT_NATS_URL=own_server.url)
        status, lines = await job.end()
        assert status == 0
        assert lines[0]["streams"] == list(subjects.STREAM_SUBJECTS)


async def test_provision_that_is_stopped_before_its_end_has_failed(
    start: Start, own_server: NatsServer
) -> None:
    await own_server.stop()
    job = await start("-m", "godwit.runtime.provision", GODWIT_NATS_URL=own_server.url)
    assert job.process.stderr is not None
    async with asyncio.timeout(20):
        assert b"event log" in await job.process.stderr.readline()
    job.process.terminate()
    assert (await job.end())[0] == 130
