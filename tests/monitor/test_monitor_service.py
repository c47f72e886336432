"""The monitor as a process, with the user that may only watch: what it tells, and to whom."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

import guarded_server
from godwit.monitor.audience import NEWS_MAX, Audience, framed
from godwit.monitor.picture import News
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.provision import provision
from godwit_protocol import subjects
from godwit_protocol.events import Lane
from godwit_protocol.events.migration import Limits, MigrationRequested

READY_S_MAX = 30.0
REQUESTED = MigrationRequested(machine="m", destination="host-2", limits=Limits())


class Monitor:
    """A client of the monitor's, and somebody who writes the log."""

    def __init__(
        self, url: str, client: aiohttp.ClientSession, owner: NatsLog, log_pid: int
    ) -> None:
        self.url, self.client, self.owner = url, client, owner
        self.log_pid = log_pid

    async def json(self, path: str, status: int = 200) -> Any:
        async with self.client.get(self.url + path) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json()

    @asynccontextmanager
    async def stream(self, after: str = "") -> AsyncIterator[aiohttp.StreamReader]:
        headers = {"Last-Event-ID": after} if after else {}
        async with self.client.get(f"{self.url}api/stream", headers=headers) as answer:
            assert answer.content_type == "text/event-stream"
            yield answer.content


@pytest_asyncio.fixture
async def monitor(tmp_path: Path) -> AsyncIterator[Monitor]:
    async with guarded_server.running(tmp_path) as guarded:
        owner = await guarded_server.connected(guarded.url)
        await provision(owner)
        environ = {
            "GODWIT_NATS_URL": guarded.watch_url,
            "GODWIT_DIR": str(tmp_path),
            "GODWIT_MONITOR_PORT": "0",
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "godwit.monitor"), env={**os.environ, **environ}
        )
        try:
            url = await address(tmp_path / "services" / "monitor" / "page.json", process)
            async with aiohttp.ClientSession() as client:
                yield Monitor(url, client, owner, guarded.pid)
        finally:
            process.terminate()
            assert await process.wait() == 0
            await owner.close()


async def address(file: Path, process: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(READY_S_MAX):
        while not (told := read_if_there(file)):
            assert process.returncode is None
            await asyncio.sleep(0.02)
    return str(json.loads(told)["url"])


def read_if_there(file: Path) -> str:
    return file.read_text() if file.exists() else ""


async def news(stream: aiohttp.StreamReader) -> tuple[str, dict[str, Any]]:
    """The next event's id and what it tells."""
    place = ""
    async with asyncio.timeout(READY_S_MAX):
        while True:
            line = (await stream.readline()).decode()
            if line.startswith("id: "):
                place = line.removeprefix("id: ").strip()
            if line.startswith("data: "):
                return place, json.loads(line.removeprefix("data: "))


async def test_what_happens_is_told_live_and_a_returning_browser_only_what_it_missed(
    monitor: Monitor,
) -> None:
    async with monitor.stream() as stream:
        assert (await news(stream))[1]["migrations"] == []
        await guarded_server.tell(monitor.owner, 1, REQUESTED)
        place, told = await news(stream)
        assert [each["id"] for each in told["migrations"]] == ["x1"]
    await guarded_server.tell(monitor.owner, 2, REQUESTED)
    async with monitor.stream(after=place) as stream:
        missed = (await news(stream))[1]["migrations"]
        while not missed:  # it may not have heard yet
            missed = (await news(stream))[1]["migrations"]
        assert [each["id"] for each in missed] == ["x2"]
    listed = await monitor.json("api/migrations")
    assert [each["id"] for each in listed["migrations"]] == ["x1", "x2"]
    assert await monitor.json("api/cluster") == {"hosts": [], "gpus": []}
    stored = await monitor.owner.last(subjects.migration("x2", Lane.OPERATOR, REQUESTED.TYPE))
    assert stored is not None
    assert stored.sequence == 2  # the monitor has written nothing


async def test_it_says_whether_the_log_answers(monitor: Monitor) -> None:
    async with monitor.stream() as stream:
        assert (await news(stream))[1]["connected"] is True
        os.kill(monitor.log_pid, signal.SIGSTOP)
        try:
            told = (await news(stream))[1]
        finally:
            os.kill(monitor.log_pid, signal.SIGCONT)
        assert (told["connected"], told["migrations"]) == (False, [])
        assert (await news(stream))[1]["connected"] is True


async def test_it_says_what_is_not_there(monitor: Monitor) -> None:
    for path in ("api/migrations/ffffffff", "api/migrations/x", "migrations/ffffffff/report"):
        assert "error" in await monitor.json(path, status=404)


async def test_whoever_does_not_keep_up_is_let_go_and_holds_nobody_up() -> None:
    audience = Audience()
    with audience.joined() as slow, audience.joined() as quick:
        frames = quick.frames()
        for place in range(NEWS_MAX + 1):
            told = News(place=place)
            audience.tell(told)
            assert await anext(frames) == framed(told)
        assert [frame async for frame in slow.frames()] == []


@pytest.mark.parametrize("place", [0, 17])
def test_news_are_one_server_sent_event(place: int) -> None:
    frame = framed(News(place=place, migrations=[{"message": "a\nb"}])).decode()
    lines = frame.split("\n")
    assert lines[:2] == [f"id: {place}", "event: news"]
    assert lines[2].startswith("data: ")
    assert lines[3:] == ["", ""]
