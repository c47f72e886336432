"""Watching: a user that can do nothing else, and a program that knows only nats-py and msgpack."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import nats
import nats.errors
import pytest
import pytest_asyncio
from nats.aio.client import Client

from godwit.runtime.clock import SystemClock
from godwit.runtime.lane import LaneWriter, Scope
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.nats_server import find_binary
from godwit.runtime.provision import provision
from godwit_protocol import cloudevents, subjects
from godwit_protocol.errors import UnreachableError
from godwit_protocol.events import Lane
from godwit_protocol.events.migration import CancelRequested
from nats_cluster import free_port

ROOT = Path(__file__).parents[2]
READY_S_MAX = 20


class Guarded:
    """A real server with the users that are shipped."""

    def __init__(self, port: int) -> None:
        self._address = f"127.0.0.1:{port}"
        self.url = f"nats://godwit:owner@{self._address}"
        self.watch_url = f"nats://watch:looker@{self._address}"


@pytest_asyncio.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    config, port = configured(tmp_path), free_port()
    passwords = {"GODWIT_NATS_PASSWORD": "owner", "GODWIT_NATS_WATCH_PASSWORD": "looker"}
    server = await asyncio.create_subprocess_exec(
        *(find_binary(), "-c", config, "-a", "127.0.0.1", "-p", str(port)),
        env={**os.environ, **passwords},
    )
    try:
        yield Guarded(port)
    finally:
        server.terminate()
        await server.wait()


def configured(directory: Path) -> Path:
    shutil.copy(ROOT / "deploy" / "nats-users.conf", directory)
    config = directory / "nats.conf"
    config.write_text(
        f'log_file: "{directory}/nats.log"\n'
        f'jetstream {{ store_dir: "{directory}/jetstream" }}\n'
        'include "nats-users.conf"\n'
    )
    return config


@pytest_asyncio.fixture
async def owner(guarded: Guarded) -> AsyncIterator[NatsLog]:
    log = await connected(guarded.url)
    await provision(log)
    yield log
    await log.close()


async def connected(url: str) -> NatsLog:
    async with asyncio.timeout(READY_S_MAX):
        while True:
            with suppress(UnreachableError):
                return await NatsLog.connect(url, name="owner")
            await asyncio.sleep(0.01)


async def watcher_of(guarded: Guarded) -> tuple[Client, asyncio.Queue[Exception]]:
    """With what the server reports to it: a denial is nothing but that, and silence."""
    reported: asyncio.Queue[Exception] = asyncio.Queue()
    client = await nats.connect(
        guarded.watch_url, inbox_prefix="_INBOX.watch", error_cb=reported.put
    )
    return client, reported


async def tell(log: NatsLog, number: int) -> None:
    scope = Scope.of_migration(f"x{number}", "m")
    event = CancelRequested(requested_by=f"somebody {number}")
    await LaneWriter(SystemClock(), Lane.OPERATOR, "desk", scope).seal(event).append_to(log)


async def test_an_event_is_heard_with_its_place_and_its_cloudevents_headers(
    guarded: Guarded, owner: NatsLog
) -> None:
    watcher, _ = await watcher_of(guarded)
    heard = await watcher.subscribe(f"{subjects.LIVE_ROOT}.>")
    await until_heard(watcher)
    await tell(owner, 1)
    message = await heard.next_msg(timeout=READY_S_MAX)
    subject = subjects.migration("x1", Lane.OPERATOR, CancelRequested.TYPE)
    assert message.subject == subject.replace(subjects.ROOT, subjects.LIVE_ROOT, 1)
    assert message.headers is not None
    assert message.headers["Nats-Sequence"] == "1"
    assert message.headers.items() >= cloudevents.headers_of(message.data).items()
    stored = await owner.last(subject)
    assert stored is not None
    assert stored.data == message.data
    await watcher.close()


async def until_heard(watcher: Client) -> None:
    """Until the server knows what was subscribed. A flush does not wait for it: nats-py sends its
    PING ahead of all that is pending, where a request waits for its turn.
    """
    answer = await watcher.request("$JS.API.DIRECT.GET.GODWIT_EVENTS", b'{"seq": 1}', timeout=5)
    assert answer.headers is not None
    assert answer.headers["Status"] == "404"


@pytest.mark.parametrize(
    "subject",
    [
        subjects.machine("m", Lane.OPERATOR, "machine_stop_requested"),
        subjects.register("m"),
        subjects.guest_request("m"),
        f"{subjects.LIVE_ROOT}.migration.x.operator.cancel_requested",
        "$JS.API.CONSUMER.CREATE.GODWIT_EVENTS.spy",
        "$JS.API.STREAM.PURGE.GODWIT_EVENTS",
        "$JS.API.STREAM.MSG.DELETE.GODWIT_EVENTS",
        "$JS.API.STREAM.DELETE.GODWIT_EVENTS",
        "$JS.API.DIRECT.GET.GODWIT_REGISTER",
    ],
)
async def test_whoever_may_watch_may_do_nothing_else(
    guarded: Guarded, owner: NatsLog, subject: str
) -> None:
    await tell(owner, 1)
    watcher, reported = await watcher_of(guarded)
    await watcher.publish(subject, b"{}")
    async with asyncio.timeout(READY_S_MAX):
        denied = str(await reported.get()).lower()
    assert "permissions violation" in denied
    assert subject.lower() in denied
    asked = await watcher.request("$JS.API.DIRECT.GET.GODWIT_EVENTS", b'{"seq": 1}', timeout=5)
    assert asked.headers is not None
    assert asked.headers["Nats-Sequence"] == "1"  # what is allowed is answered meanwhile
    stored = [message async for message in owner.read([f"{subjects.ROOT}.migration.>"])]
    assert len(stored) == 1
    await watcher.close()


async def test_the_example_shows_what_it_missed_too(guarded: Guarded, owner: NatsLog) -> None:
    for number in (1, 2, 3):
        await tell(owner, number)
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, ROOT / "examples" / "watch.py", guarded.watch_url),
        stdout=asyncio.subprocess.PIPE,
    )
    assert program.stdout is not None
    try:
        await say_again(guarded, 1)
        await tell(owner, 4)
        async with asyncio.timeout(READY_S_MAX):
            told = [(await program.stdout.readline()).decode() for _ in range(4)]
    finally:
        program.terminate()
        await program.wait()
    for number, line in enumerate(told, start=1):
        assert "desk operator cancel_requested" in line
        assert f"somebody {number}" in line


async def say_again(guarded: Guarded, sequence: int) -> None:
    """As the server would have when it was stored, once somebody listens."""
    client = await nats.connect(guarded.url)
    question = json.dumps({"seq": sequence}).encode()
    stored = await client.request("$JS.API.DIRECT.GET.GODWIT_EVENTS", question)
    live = f"{subjects.LIVE_ROOT}.migration.x1.operator.cancel_requested"
    headers = {"Nats-Sequence": str(sequence)}
    async with asyncio.timeout(READY_S_MAX):
        while True:
            with suppress(nats.errors.NoRespondersError):
                try:
                    await client.request(live, stored.data, timeout=0.1, headers=headers)
                except nats.errors.TimeoutError:
                    break  # heard, and not answered
            await asyncio.sleep(0.01)
    await client.close()
