"""Appending, compare-and-set and deduplication, as the real server does them."""

from __future__ import annotations

import asyncio
import json
from uuid import uuid4

import nats.errors
import pytest
from nats.aio.client import Client

from godwit.runtime import jetstream_api as api
from godwit.runtime import nats_log
from godwit.runtime.clock import SystemClock
from godwit.runtime.event_log import AppendConflictError, LogFullError
from godwit.runtime.lane import LaneWriter, Scope
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.nats_server import MAX_PAYLOAD_BYTES, NatsServer
from godwit.runtime.provision import stream_rules
from godwit_protocol import codec, subjects
from godwit_protocol.errors import InvalidInputError, UnreachableError
from godwit_protocol.events import Lane, stored_hash
from godwit_protocol.events.machine import MachineStopRequested
from godwit_protocol.stored import EXPECTED_SEQUENCE_HEADER, MESSAGE_ID_HEADER
from relay import Relay


def new_id() -> str:
    return uuid4().hex


async def stored(log: NatsLog, subject: str) -> list[bytes]:
    return [message.data async for message in log.read([subject])]


async def test_what_is_appended_is_the_last_of_its_subject(log: NatsLog, unique_name: str) -> None:
    subject = subjects.migration(unique_name, "source", "began")
    first = await log.append(subject, b"one", message_id=new_id())
    second = await log.append(subject, b"two", message_id="id-2" + unique_name, headers={"A": "b"})
    last = await log.last(subject)
    assert last is not None
    assert (last.subject, last.sequence, last.data) == (subject, second, b"two")
    assert second > first
    assert last.headers == {"A": "b", MESSAGE_ID_HEADER: "id-2" + unique_name}


async def test_last_has_the_same_time_and_headers_as_a_reader_sees(
    log: NatsLog, unique_name: str
) -> None:
    subject = subjects.migration(unique_name, "source", "began")
    await log.append(subject, b"one", message_id=new_id(), headers={"Key": "value: with colon"})
    last = await log.last(subject)
    assert [message async for message in log.read([subject])] == [last]


async def test_a_stream_that_is_between_two_leaders_is_asked_again(
    log: NatsLog, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens for an append then, and nobody says what streams there are."""
    leaderless, request = 3, Client.request

    async def elected_meanwhile(client: Client, subject: str, *given: object, **named: object):  # type: ignore[no-untyped-def]
        nonlocal leaderless
        if leaderless and subject.startswith("$JS.API.STREAM.INFO"):
            raise nats.errors.TimeoutError
        if leaderless:
            leaderless -= 1
            raise nats.errors.NoRespondersError
        return await request(client, subject, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(nats_log, "FIRST_ATTEMPT_S", 0.05)
    monkeypatch.setattr(Client, "request", elected_meanwhile)
    subject = subjects.migration(unique_name, "source", "began")
    assert await log.append(subject, b"one", message_id=new_id())
    assert leaderless == 0


async def test_an_empty_subject_has_no_last(log: NatsLog, unique_name: str) -> None:
    assert await log.last(subjects.register(unique_name)) is None


async def test_a_repeated_id_is_stored_once(log: NatsLog, unique_name: str) -> None:
    subject = subjects.migration(unique_name, "source", "began")
    message_id = new_id()
    sequences = {await log.append(subject, b"one", message_id=message_id) for _ in range(3)}
    assert len(sequences) == 1
    assert await stored(log, subject) == [b"one"]


async def test_an_id_is_forgotten_after_the_window(own_server: NatsServer) -> None:
    log = await NatsLog.connect(own_server.url, name="test")
    events = next(rules for rules in stream_rules() if rules.name == subjects.EVENTS)
    await log.ensure_stream(
        api.StreamRules(
            name=events.name, subjects=events.subjects, duplicate_window_s=1, keep_for_ever=True
        )
    )
    subject = subjects.inventory("host-1")
    first = await log.append(subject, b"", message_id="same")
    async with asyncio.timeout(10):
        while await log.append(subject, b"", message_id="same") == first:
            pass
    assert len(await stored(log, subject)) == 2
    await log.close()


async def test_expecting_nothing_succeeds_only_on_an_empty_subject(
    log: NatsLog, unique_name: str
) -> None:
    subject = subjects.register(unique_name)
    await log.append(subject, b"mine", message_id=new_id(), expected_last_sequence=0)
    with pytest.raises(AppendConflictError, match=subject):
        await log.append(subject, b"late", message_id=new_id(), expected_last_sequence=0)
    assert await stored(log, subject) == [b"mine"]


async def test_of_many_writers_with_one_expectation_one_wins(
    log: NatsLog, unique_name: str
) -> None:
    subject = subjects.register(unique_name)
    start = await log.append(subject, b"start", message_id=new_id(), expected_last_sequence=0)
    results = await asyncio.gather(
        *(
            log.append(subject, b"%d" % n, message_id=new_id(), expected_last_sequence=start)
            for n in range(20)
        ),
        return_exceptions=True,
    )
    winners = [n for n, result in enumerate(results) if isinstance(result, int)]
    losers = [result for result in results if isinstance(result, AppendConflictError)]
    assert len(winners) == 1
    assert len(losers) == 19
    assert await stored(log, subject) == [b"start", b"%d" % winners[0]]


async def test_other_subjects_of_the_stream_do_not_disturb_an_expectation(
    log: NatsLog, unique_name: str
) -> None:
    subject = subjects.register(unique_name)
    first = await log.append(subject, b"1", message_id=new_id(), expected_last_sequence=0)
    await log.append(subjects.register(f"{unique_name}-b"), b"other", message_id=new_id())
    assert (
        await log.append(subject, b"2", message_id=new_id(), expected_last_sequence=first) > first
    )


async def test_the_server_calls_a_conflict_10071_even_for_a_repeat_of_what_stands(
    nats_server: NatsServer, log: NatsLog, unique_name: str
) -> None:
    """On one replica the expectation is checked before the id: hence the reading back."""
    subject = subjects.register(unique_name)
    await log.append(subject, b"1", message_id="id" + unique_name, expected_last_sequence=0)
    client = Client()
    await client.connect(nats_server.url)
    headers = {MESSAGE_ID_HEADER: "id" + unique_name, EXPECTED_SEQUENCE_HEADER: "0"}
    answer = await client.request(subject, b"1", timeout=2, headers=headers)
    await client.close()
    error = json.loads(answer.data)["error"]
    assert error["err_code"] == 10071
    assert error["err_code"] in api.CONFLICT_CODES


async def test_a_repeat_of_our_own_compare_and_set_succeeds(log: NatsLog, unique_name: str) -> None:
    subject = subjects.register(unique_name)
    message_id = new_id()
    first = await log.append(subject, b"mine", message_id=message_id, expected_last_sequence=0)
    again = await log.append(subject, b"mine", message_id=message_id, expected_last_sequence=0)
    assert again == first
    assert await stored(log, subject) == [b"mine"]


async def test_a_repeat_succeeds_also_when_another_message_stands_on_ours(
    log: NatsLog, unique_name: str
) -> None:
    subject = subjects.register(unique_name)
    message_id = new_id()
    first = await log.append(subject, b"mine", message_id=message_id, expected_last_sequence=0)
    await log.append(subject, b"next", message_id=new_id(), expected_last_sequence=first)
    again = await log.append(subject, b"mine", message_id=message_id, expected_last_sequence=0)
    assert again == first
    assert await stored(log, subject) == [b"mine", b"next"]


async def test_a_compare_and_set_whose_acknowledgement_is_lost_succeeds(
    nats_server: NatsServer, log: NatsLog, unique_name: str
) -> None:
    subject = subjects.register(unique_name)
    async with Relay(nats_server.url) as relay:
        behind = await NatsLog.connect(relay.url, name="behind the relay")
        await behind.last(subject)
        relay.withhold_answers()
        appending = asyncio.create_task(
            behind.append(subject, b"mine", message_id=new_id(), expected_last_sequence=0)
        )
        async with asyncio.timeout(5):
            there = await anext(log.tail([subject]))
        await relay.cut()
        assert await appending == there.sequence
        await behind.close()
    assert await stored(log, subject) == [b"mine"]


async def test_a_message_of_the_largest_size_is_stored_and_a_larger_one_refused(
    log: NatsLog, unique_name: str
) -> None:
    subject = subjects.migration(unique_name, "source", "began")
    sent = {MESSAGE_ID_HEADER: "x" * 32}
    largest = bytes(MAX_PAYLOAD_BYTES - api.header_bytes(sent))
    await log.append(subject, largest, message_id=new_id())
    with pytest.raises(InvalidInputError, match="too large"):
        await log.append(subject, largest + b"!", message_id=new_id())
    assert await log.last(subject) is not None, "the connection has survived"


async def test_a_subject_of_no_stream_is_refused(log: NatsLog) -> None:
    with pytest.raises(InvalidInputError, match="no stream holds"):
        await log.append("elsewhere.v1.x.y", b"", message_id=new_id())


async def test_a_stream_that_was_not_provisioned_is_named_at_once(own_server: NatsServer) -> None:
    log = await NatsLog.connect(own_server.url, name="test")
    async with asyncio.timeout(2):
        with pytest.raises(InvalidInputError, match=f"no stream {subjects.LEDGER}"):
            await log.append(subjects.ledger("host-1"), b"", message_id=new_id(), timeout_s=30)
        with pytest.raises(InvalidInputError, match=f"no stream {subjects.LEDGER}"):
            await log.last(subjects.ledger("host-1"), timeout_s=30)
    await log.close()


async def test_a_full_stream_refuses_new_messages_and_keeps_the_old(own_server: NatsServer) -> None:
    log = await NatsLog.connect(own_server.url, name="test")
    await log.ensure_stream(
        api.StreamRules(
            name=subjects.GUEST,
            subjects=subjects.STREAM_SUBJECTS[subjects.GUEST],
            discard=api.Discard.NEW,
            max_bytes=64 * 1024,
            duplicate_window_s=1,
            keep_for_ever=False,
        )
    )
    subject = subjects.guest_request("m")
    await log.append(subject, bytes(40 * 1024), message_id=new_id())
    async with asyncio.timeout(2):
        with pytest.raises(LogFullError):
            await log.append(subject, bytes(40 * 1024), message_id=new_id(), timeout_s=30)
    assert len(await stored(log, subject)) == 1
    await log.close()


async def test_without_a_server_an_append_fails_in_time_and_is_not_sent_later(
    own_server: NatsServer, own_log: NatsLog
) -> None:
    subject = subjects.register("m")
    await own_server.stop()
    async with asyncio.timeout(2):
        # The first may be under way when the client notices; what comes after it is never sent.
        for lost in (subjects.register("noticed"), subject):
            with pytest.raises(UnreachableError):
                await own_log.append(lost, b"too late", message_id=new_id(), timeout_s=0.3)
    await own_server.restart()
    await own_log.append(subject, b"after", message_id=new_id(), timeout_s=10)
    assert await stored(own_log, subject) == [b"after"]


async def test_nobody_at_the_address_is_unreachable() -> None:
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1 "):
        await NatsLog.connect("nats://127.0.0.1:1", name="test", timeout_s=0.3)


@pytest.mark.parametrize("url", ["x", "nats://127.0.0.1:port", "nats://", "http://127.0.0.1:1"])
async def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="is not the URL"):
        await NatsLog.connect(url, name="test")


async def test_of_several_servers_one_that_answers_is_enough(nats_server: NatsServer) -> None:
    log = await NatsLog.connect(f"nats://127.0.0.1:1,{nats_server.url}", name="test")
    assert log.is_connected
    await log.close()


async def test_a_connection_that_is_used_on_another_event_loop_says_so(
    log: NatsLog, unique_name: str
) -> None:
    """Its client's tasks sleep there: a question would only seem not to be answered."""
    with pytest.raises(RuntimeError, match="event loop that connected"):
        await asyncio.to_thread(asyncio.run, log.last(subjects.register(unique_name)))


async def test_an_append_after_close_is_refused_at_once(log: NatsLog, unique_name: str) -> None:
    await log.close()
    async with asyncio.timeout(1):
        with pytest.raises(UnreachableError, match="closed"):
            await log.append(subjects.register(unique_name), b"", message_id=new_id())
        await log.closed()


async def test_one_event_takes_a_place_in_a_lane_however_late_the_other_comes(
    log: NatsLog, unique_name: str
) -> None:
    """A service was killed with an append on its way, and its next life wrote at the same place."""
    scope, clock = Scope.of_machine(unique_name), SystemClock()
    dead, alive = (LaneWriter(clock, Lane.SOURCE, "host-1", scope) for _ in range(2))
    late = dead.seal(MachineStopRequested(stop="one"))
    sealed = alive.seal(MachineStopRequested(stop="two"))
    place = alive.place
    await sealed.append_to(log, message_id=place)
    await late.append_to(log, message_id=dead.place)
    assert await alive.find_place(log) == stored_hash(sealed.data)
    assert await dead.find_place(log) != stored_hash(late.data)
    assert dead.place == alive.place != place
    await dead.seal(MachineStopRequested(stop="one")).append_to(log, message_id=dead.place)
    stored = [message.data async for message in log.read(scope.filters())]
    envelopes = [codec.decode(data).envelope for data in stored]
    assert [envelope.lane_sequence for envelope in envelopes] == [1, 2]
    assert envelopes[1].prev_hash == stored_hash(stored[0])
