"""Reading history and joining it to live messages, through whatever happens to the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, cast
from uuid import uuid4

import msgspec
import pytest
from nats.aio.client import Client

from godwit.runtime import jetstream_api as api
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.nats_server import NatsServer
from godwit.runtime.pull_reader import MESSAGES_IN_FLIGHT_MAX, PULL_BYTES_MAX
from godwit_protocol import subjects
from godwit_protocol.errors import InvalidInputError, UnreachableError
from godwit_protocol.stored import Stored


class ConsumerNames(api.Reply, frozen=True):
    consumers: list[str] | None = None


class ConsumerState(api.Reply, frozen=True):
    delivered: dict[str, Any] = msgspec.field(default_factory=dict)


async def append(log: NatsLog, subject: str, *payloads: bytes) -> list[int]:
    return [await log.append(subject, data, message_id=uuid4().hex) for data in payloads]


def numbers(first: int, end: int) -> list[bytes]:
    return [b"%d" % n for n in range(first, end)]


async def take(messages: AsyncIterator[Stored], count: int) -> list[bytes]:
    async with asyncio.timeout(20):
        return [(await anext(messages)).data for _ in range(count)]


def closing(messages: AsyncIterator[Stored]) -> Any:
    return aclosing(cast("Any", messages))


async def consumers(log: NatsLog, stream: str) -> list[str]:
    reply = await log.ask_api(f"CONSUMER.NAMES.{stream}", {}, ConsumerNames, 2.0)
    return reply.consumers or []


async def test_reading_nothing_ends_at_once(log: NatsLog, unique_name: str) -> None:
    async with asyncio.timeout(2):
        assert [m async for m in log.read(subjects.whole_migration(unique_name))] == []


async def test_several_filters_give_each_message_once_in_the_streams_order(
    log: NatsLog, unique_name: str
) -> None:
    decision = subjects.addressed(
        "host-1", "source_host", "migration", unique_name, "coordinator", "told"
    )
    fact = subjects.migration(unique_name, "source", "began")
    for n in range(6):
        await append(log, (decision, fact)[n % 2], b"%d" % n)
    await append(log, subjects.migration(f"{unique_name}x", "source", "began"), b"not ours")
    read = [m async for m in log.read(subjects.whole_migration(unique_name))]
    assert [m.data for m in read] == numbers(0, 6)
    assert [m.sequence for m in read] == sorted({m.sequence for m in read})
    assert [m.subject for m in read] == [decision, fact] * 3


async def test_reading_goes_on_after_a_sequence(log: NatsLog, unique_name: str) -> None:
    subject = subjects.migration(unique_name, "source", "began")
    sequences = await append(log, subject, *numbers(0, 5))
    read = [m.data async for m in log.read([subject], after_sequence=sequences[2])]
    assert read == numbers(3, 5)
    assert [m async for m in log.read([subject], after_sequence=sequences[4])] == []


async def test_a_history_of_several_pulls_is_read_whole(log: NatsLog, unique_name: str) -> None:
    subject = subjects.guest_request(unique_name)
    count = 2 * MESSAGES_IN_FLIGHT_MAX + 7
    await asyncio.gather(*(append(log, subject, data) for data in numbers(0, count)))
    read = [m async for m in log.read([subject])]
    assert sorted(int(m.data) for m in read) == list(range(count))
    assert [m.sequence for m in read] == sorted(m.sequence for m in read)


async def test_messages_larger_than_one_pull_are_read_whole(log: NatsLog, unique_name: str) -> None:
    subject = subjects.telemetry("machine", unique_name, "bulk")
    large = [bytes([n]) * (6 * 1024 * 1024) for n in range(4)]
    assert sum(map(len, large)) > PULL_BYTES_MAX
    await append(log, subject, *large)
    assert [m.data async for m in log.read([subject])] == large


async def test_reading_ends_where_the_history_ended_though_writing_goes_on(
    log: NatsLog, unique_name: str
) -> None:
    subject = subjects.migration(unique_name, "source", "began")
    await append(log, subject, *numbers(0, 5))
    async with closing(log.read([subject])) as history:
        read = await take(history, 1)
        await append(log, subject, *numbers(5, 8))
        async with asyncio.timeout(2):
            read += [m.data async for m in history]
    assert read == numbers(0, 5)


async def test_a_tail_joins_history_to_live_without_a_gap_or_a_double(
    log: NatsLog, unique_name: str
) -> None:
    subject = subjects.guest_request(unique_name)
    await append(log, subject, *numbers(0, 20))
    async with closing(log.tail([subject])) as tail, asyncio.TaskGroup() as tasks:
        tasks.create_task(append(log, subject, *numbers(20, 300)))
        assert await take(tail, 300) == numbers(0, 300)


async def test_a_tail_goes_on_when_its_consumer_is_deleted(
    own_log: NatsLog, unique_name: str
) -> None:
    subject = subjects.migration(unique_name, "source", "began")
    await append(own_log, subject, *numbers(0, 3))
    async with closing(own_log.tail([subject])) as tail:
        read = await take(tail, 3)
        for name in await consumers(own_log, subjects.EVENTS):
            delete = f"CONSUMER.DELETE.{subjects.EVENTS}.{name}"
            await own_log.ask_api(delete, {}, api.Reply, 2.0)
        await append(own_log, subject, *numbers(3, 6))
        read += await take(tail, 3)
    assert read == numbers(0, 6)


@pytest.mark.parametrize(
    ("reply", "headers"),
    [
        ("$JS.ACK.STREAM.consumer.1.99.99.1.0", None),
        ("", {"Status": "409", "Description": "Consumer Deleted"}),
    ],
    ids=["a gap", "the end of the consumer"],
)
async def test_a_tail_loses_and_doubles_nothing_when_its_delivery_is_disturbed(
    own_log: NatsLog, unique_name: str, reply: str, headers: dict[str, str] | None
) -> None:
    subject = subjects.migration(unique_name, "source", "began")
    await append(own_log, subject, *numbers(0, 3))
    async with closing(own_log.tail([subject])) as tail:
        read = await take(tail, 2)
        (reader,) = own_log._readers
        await own_log._client.publish(reader._inbox, b"forged", reply=reply, headers=headers)
        await append(own_log, subject, *numbers(3, 6))
        read += await take(tail, 4)
    assert read == numbers(0, 6)


@pytest.mark.parametrize("end", [NatsServer.stop, NatsServer.kill])
async def test_a_tail_survives_a_server_restart_and_acknowledged_messages_do_too(
    own_server: NatsServer,
    own_log: NatsLog,
    unique_name: str,
    end: Callable[[NatsServer], Awaitable[None]],
) -> None:
    subject = subjects.migration(unique_name, "source", "began")
    await append(own_log, subject, *numbers(0, 10))
    async with closing(own_log.tail([subject])) as tail:
        read = await take(tail, 5)
        await end(own_server)
        await own_server.restart()
        await append(own_log, subject, *numbers(10, 20))
        read += await take(tail, 15)
    assert read == numbers(0, 20)
    assert [m.data async for m in own_log.read([subject])] == numbers(0, 20)


async def test_a_tail_that_was_begun_while_the_server_is_down_begins_when_it_is_up(
    own_server: NatsServer, own_log: NatsLog, unique_name: str
) -> None:
    subject = subjects.migration(unique_name, "source", "began")
    await append(own_log, subject, b"before")
    await own_server.stop()
    async with closing(own_log.tail([subject])) as tail:
        first = asyncio.create_task(take(tail, 1))
        await own_server.restart()
        assert await first == [b"before"]


async def test_a_reader_that_does_not_read_is_not_flooded(
    own_log: NatsLog, unique_name: str
) -> None:
    subject = subjects.telemetry("machine", unique_name, "flood")
    count = 1000  # what the telemetry stream keeps of a subject
    await asyncio.gather(*(append(own_log, subject, data) for data in numbers(0, count)))
    async with closing(own_log.tail([subject])) as tail:
        read = await take(tail, 1)
        (name,) = await consumers(own_log, subjects.TELEMETRY)
        info = f"CONSUMER.INFO.{subjects.TELEMETRY}.{name}"
        state = await own_log.ask_api(info, {}, ConsumerState, 2.0)
        assert 1 <= state.delivered["consumer_seq"] <= MESSAGES_IN_FLIGHT_MAX
        read += await take(tail, count - 1)
    assert sorted(map(int, read)) == list(range(count))


async def test_a_reader_that_is_done_leaves_no_consumer(own_log: NatsLog, unique_name: str) -> None:
    subject = subjects.migration(unique_name, "source", "began")
    await append(own_log, subject, b"1", b"2")
    async with closing(own_log.tail([subject])) as tail:
        await take(tail, 1)
        assert len(await consumers(own_log, subjects.EVENTS)) == 1
    assert [m.data async for m in own_log.read([subject])] == [b"1", b"2"]
    async with asyncio.timeout(5):
        while await consumers(own_log, subjects.EVENTS):
            pass


async def test_a_closed_connection_ends_a_tail_with_an_error(
    log: NatsLog, unique_name: str
) -> None:
    subject = subjects.migration(unique_name, "source", "began")
    await append(log, subject, b"1")
    async with closing(log.tail([subject])) as tail:
        await take(tail, 1)
        waiting = asyncio.create_task(take(tail, 1))
        await log.close()
        with pytest.raises(UnreachableError, match="closed"):
            await waiting


async def test_filters_of_two_streams_are_refused(log: NatsLog) -> None:
    filters = [subjects.register("*"), subjects.ledger("*")]
    with pytest.raises(InvalidInputError, match="cannot be read together"):
        await anext(log.read(filters))


async def test_overlapping_filters_are_refused(log: NatsLog, unique_name: str) -> None:
    filters = [subjects.register("*"), subjects.register(unique_name)]
    with pytest.raises(InvalidInputError, match="overlap"):
        await anext(log.tail(filters))


async def test_a_stream_that_is_not_there_cannot_be_read(own_server: NatsServer) -> None:
    log = await NatsLog.connect(own_server.url, name="test")
    with pytest.raises(InvalidInputError, match=subjects.EVENTS) as refusal:
        await anext(log.tail([subjects.inventory("*")]))
    assert "provision" in refusal.value.hint
    await log.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"Nats-Msg-Id: a\r\nce-time:2026-11-23T08:00:00Z\r\nEmpty:\r\n\r\n",
        "Told:  größer: als \t\r\n".encode(),
        b"Broken: \xff\r\nno field\r\nTwice: 1\r\nTwice: 2\r\n",
    ],
)
def test_headers_are_read_as_the_client_library_reads_them(raw: bytes) -> None:
    assert api.header_fields(raw) == Client._parse_header_lines(raw)
