"""Watching: a user that can do nothing else, and a program that knows only nats-py and msgpack."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nats
import nats.errors
import pytest
from nats.aio.client import Client

from godwit.runtime import jetstream_api as api
from godwit.runtime.nats_log import NatsLog
from godwit_protocol import cloudevents, subjects
from godwit_protocol.events import Lane
from godwit_protocol.events.migration import CancelRequested
from godwit_protocol.subjects import STREAM_SUBJECTS
from guarded_server import Guarded, tell

ROOT = Path(__file__).parents[2]
WATCHING = ROOT / "docs" / "watching.md"
READY_S_MAX = 20


class StreamState(api.Reply, frozen=True):
    """What a stream holds."""

    state: dict[str, Any] = {}


async def watcher_of(guarded: Guarded) -> tuple[Client, asyncio.Queue[Exception]]:
    """With what the server reports to it: a denial is nothing but that, and silence."""
    reported: asyncio.Queue[Exception] = asyncio.Queue()
    client = await nats.connect(
        guarded.watch_url, inbox_prefix="_INBOX.watch", error_cb=reported.put
    )
    return client, reported


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
        "$JS.API.STREAM.INFO.GODWIT_EVENTS",
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


NOT_FOR_A_WATCHER = (
    subjects.ledger("host-1"),
    subjects.register("m"),
    subjects.claim("m"),
    subjects.machine("m", Lane.OPERATOR, "machine_stop_requested"),
    subjects.guest_request("m"),
    subjects.archived("x1"),
    f"{subjects.ROOT}.host.host-1.source.machine.m.{Lane.OPERATOR}.machine_stop_requested",
    "_INBOX.somebody.else",
)


@pytest.mark.parametrize(
    ("call", "question"),
    [
        ("DIRECT.GET.GODWIT_EVENTS", b'{"seq": 1}'),
        ("DIRECT.GET.GODWIT_EVENTS", b'{"seq": 1, "next_by_subj": "godwit.v1.>", "batch": 9}'),
        ("DIRECT.GET.GODWIT_LEDGER", b'{"seq": 1}'),
        ("DIRECT.GET.GODWIT_ARCHIVED", b'{"seq": 1}'),
    ],
)
async def test_an_answer_can_be_sent_nowhere_but_to_a_watcher(
    guarded: Guarded, owner: NatsLog, call: str, question: bytes
) -> None:
    """The server asks nobody whether a subject may be answered to: it would write for the watcher,
    and say to the services what it was made to say.
    """
    await tell(owner, 1)
    before = await stored_everywhere(owner)
    services = await nats.connect(guarded.url)
    heard = [await services.subscribe(subject) for subject in NOT_FOR_A_WATCHER]
    await services.flush()
    watcher, _ = await watcher_of(guarded)
    for subject in NOT_FOR_A_WATCHER:
        traced = {"Nats-Trace-Dest": subject}  # another way to have the server send something
        await watcher.publish(f"$JS.API.{call}", question, reply=subject, headers=traced)
        await watcher.publish(f"$JS.API.{call}", question, reply=subject)
    await until_answered(watcher)
    await services.flush()
    assert [each.subject for each in heard if each.pending_msgs] == []
    assert await stored_everywhere(owner) == before
    await services.close()
    await watcher.close()


async def until_answered(watcher: Client) -> None:
    """What it asked before has been answered, too."""
    for _ in range(2):
        asked = await watcher.request("$JS.API.DIRECT.GET.GODWIT_EVENTS", b'{"seq": 1}', timeout=5)
        assert asked.headers is not None
        assert asked.headers["Nats-Sequence"] == "1"


async def stored_everywhere(owner: NatsLog) -> dict[str, int]:
    """Where each stream ends."""
    ends = {}
    for stream in STREAM_SUBJECTS:
        info = await owner.ask_api(f"STREAM.INFO.{stream}", {}, StreamState, READY_S_MAX)
        ends[stream] = info.state["last_seq"]
    return ends


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


async def test_the_line_for_the_nats_command_says_who_did_what(
    guarded: Guarded, owner: NatsLog
) -> None:
    """What ``nats sub SUBJECT --headers-only`` does, in the protocol's own words: no client library
    is needed to read an event's headers. Where the command is installed, it is run itself.
    """
    watched = re.search(r"`nats sub '([^']+)' --headers-only`", WATCHING.read_text("utf-8"))
    assert watched is not None, "the line stands in the docs"
    program = shutil.which("nats")
    heard = await (
        by_command(program, guarded, owner, watched[1])
        if program
        else by_protocol(guarded, owner, watched[1])
    )
    assert "ce-type: godwit.v1.cancel_requested" in heard
    assert "ce-source: /godwit/operator/desk" in heard
    assert "ce-subject: migration/x1" in heard
    assert "Nats-Sequence: 1" in heard


async def by_protocol(guarded: Guarded, owner: NatsLog, subject: str) -> str:
    """The headers of one message."""
    found = urlsplit(guarded.watch_url)
    reader, writer = await asyncio.open_connection(found.hostname, found.port)
    options = {"user": found.username, "pass": found.password, "headers": True, "verbose": False}
    writer.write(f"CONNECT {json.dumps(options)}\r\nSUB {subject} 1\r\nPING\r\n".encode())
    async with asyncio.timeout(READY_S_MAX):
        assert (await reader.readline()).startswith(b"INFO ")
        assert await reader.readline() == b"PONG\r\n", "subscribed, and nothing was denied"
        await tell(owner, 1)
        words = (await reader.readline()).split()
        assert words[0] == b"HMSG"
        headers = await reader.readexactly(int(words[-2]))
    writer.close()
    return headers.decode()


async def by_command(program: str, guarded: Guarded, owner: NatsLog, subject: str) -> str:
    """What the real command prints of one message."""
    options = ("--server", guarded.watch_url, "--inbox-prefix", "_INBOX.watch", "--count", "1")
    process = await asyncio.create_subprocess_exec(
        *(program, "sub", subject, "--headers-only", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    async with asyncio.timeout(READY_S_MAX):
        said = (await process.stdout.readline()).decode()  # that it is subscribed
        await tell(owner, 1)
        return said + (await process.communicate())[0].decode()
