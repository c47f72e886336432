from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import pytest_asyncio

from godwit.runtime import outbox as outbox_module
from godwit.runtime.event_log import EventLog
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.nats_server import MAX_PAYLOAD_BYTES, NatsServer
from godwit.runtime.outbox import Outbox, OutboxFullError
from godwit_protocol import subjects
from godwit_protocol.errors import DeadlineError, LocalProtocolError


@pytest_asyncio.fixture
async def outbox(log: NatsLog) -> AsyncIterator[Outbox]:
    box = Outbox(log)
    yield box
    await box.close()


async def stored(log: EventLog, subject: str) -> list[bytes]:
    return [message.data async for message in log.read([subject])]


def fact(name: str, lane: str = "source", event: str = "round") -> str:
    return subjects.migration(name, lane, event)


async def test_a_lane_is_stored_in_the_order_of_its_puts(
    log: NatsLog, outbox: Outbox, unique_name: str
) -> None:
    for n in range(100):
        event = ("round", "began")[n % 2]
        outbox.put(fact(unique_name, event=event), b"%d" % n, uuid4().hex)
    assert outbox.depth == 100
    await outbox.flush(10)
    assert outbox.depth == 0
    assert outbox.oldest_age_s == 0
    assert await stored(log, fact(unique_name, event="*")) == [b"%d" % n for n in range(100)]


async def test_a_named_lane_holds_over_different_subjects(
    log: NatsLog, outbox: Outbox, unique_name: str
) -> None:
    there = subjects.addressed("h", "source_host", "migration", unique_name, "coordinator", "told")
    for n in range(20):
        outbox.put((fact(unique_name), there)[n % 2], b"%d" % n, uuid4().hex, lane="one")
    await outbox.flush(10)
    read = [m.data async for m in log.read(subjects.whole_migration(unique_name))]
    assert read == [b"%d" % n for n in range(20)]


async def test_headers_and_id_are_stored(log: NatsLog, outbox: Outbox, unique_name: str) -> None:
    outbox.put(fact(unique_name), b"", "id-" + unique_name, lambda: {"Key": "value"})
    await outbox.flush(10)
    last = await log.last(fact(unique_name))
    assert last is not None
    assert last.headers == {"Key": "value", "Nats-Msg-Id": "id-" + unique_name}


async def test_a_full_outbox_refuses_and_keeps_what_it_has(log: NatsLog, unique_name: str) -> None:
    box = Outbox(log, messages_max=3, bytes_max=100)
    for n in range(3):
        box.put(fact(unique_name), b"%d" % n, uuid4().hex)
    with pytest.raises(OutboxFullError, match="3 messages"):
        box.put(fact(unique_name), b"3", uuid4().hex)
    await box.flush(10)
    box.put(fact(unique_name), bytes(100), uuid4().hex)
    with pytest.raises(OutboxFullError):
        box.put(fact(unique_name), b"!", uuid4().hex)
    await box.flush(10)
    assert await stored(log, fact(unique_name)) == [b"0", b"1", b"2", bytes(100)]
    await box.close()


async def test_what_was_put_while_the_log_is_away_is_stored_once_and_in_order_afterwards(
    own_server: NatsServer, own_log: NatsLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "APPEND_S_MAX", 0.2)
    box = Outbox(own_log)
    lanes = [fact("m", lane=lane) for lane in ("source", "destination")]
    for lane in lanes:
        box.put(lane, b"before", uuid4().hex)
    await box.flush(10)
    await own_server.stop()
    for n in range(10):
        for lane in lanes:
            box.put(lane, b"%d" % n, uuid4().hex)
    with pytest.raises(DeadlineError, match="20 messages"):
        await box.flush(0.5)
    assert box.oldest_age_s >= 0.5
    await own_server.restart()
    await box.flush(15)
    expected = [b"before", *(b"%d" % n for n in range(10))]
    assert [await stored(own_log, lane) for lane in lanes] == [expected, expected]
    await box.close()


async def test_an_old_attempt_that_was_stored_after_all_is_not_stored_again(
    log: NatsLog, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the deduplication window had passed: the outbox must look before it repeats."""
    monkeypatch.setattr(outbox_module, "READ_BACK_AFTER_S", -1.0)
    message_id = uuid4().hex
    first = await log.append(fact(unique_name), b"once", message_id=message_id)
    box = Outbox(log)
    box.put(fact(unique_name), b"different bytes show a second append", message_id)
    box.put(fact(unique_name), b"next", uuid4().hex)
    await box.flush(10)
    read = [(m.sequence, m.data) async for m in log.read([fact(unique_name)])]
    assert read[0] == (first, b"once")
    assert [data for _, data in read[1:]] == [b"next"]
    await box.close()


async def test_what_the_log_never_takes_is_counted_and_does_not_block_its_lane(
    log: NatsLog, outbox: Outbox, unique_name: str
) -> None:
    outbox.put(fact(unique_name), bytes(MAX_PAYLOAD_BYTES), uuid4().hex)
    outbox.put(fact(unique_name), b"next", uuid4().hex)
    await outbox.flush(10)
    assert outbox.refused == 1
    assert await stored(log, fact(unique_name)) == [b"next"]


async def test_close_says_how_much_was_lost_and_takes_nothing_more(
    own_server: NatsServer, own_log: NatsLog
) -> None:
    await own_server.stop()
    box = Outbox(own_log)
    for n in range(5):
        box.put(fact("m"), b"%d" % n, uuid4().hex)
    async with asyncio.timeout(2):
        assert await box.close() == 5
    with pytest.raises(LocalProtocolError, match="closed"):
        box.put(fact("m"), b"", uuid4().hex)
