"""A fact's way: its journal first, then the outbox, in order; and who is told when it arrived."""

from __future__ import annotations

import asyncio
from unittest.mock import ANY, Mock, call

import pytest

from godwit.host import facts as module
from godwit.host.causes import Cause
from godwit.host.facts import FactWriter, acknowledged, decode_record, encode_record
from godwit.runtime.clock import SystemClock
from godwit.runtime.journal import JournalFailedError, JournalFullError, Room
from godwit.runtime.lane import LaneWriter, Scope, Sealed
from godwit_protocol import codec, link
from godwit_protocol.cloudevents import CAUSE
from godwit_protocol.errors import CorruptError, UnreachableError
from godwit_protocol.events import Lane
from godwit_protocol.events import migration as ev
from godwit_protocol.roles.effects import Address, Append, Durability, Service

RELEASED = ev.MachineReleased()
GO = ev.GoGiven(staged_heard_ns=1)
OWN = Address("host-1", Service.SOURCE_HOST)


class Lane1:
    """A writer whose journal and outbox only note what they are given. ``done``: in order."""

    def __init__(self, cause: str = "") -> None:
        self.done = Mock()
        self.journal, self.outbox = self.done.journal, self.done.outbox
        self.stored: list[asyncio.Future[bool]] = []
        self.outbox.put.side_effect = self._put
        scope = Scope.of_migration("now", "m")
        lane = LaneWriter(SystemClock(), Lane.SOURCE, "host-1", scope)
        self.facts = FactWriter(lane, self.journal, self.outbox, cause)

    def _put(self, *_: object, **__: object) -> asyncio.Future[bool]:
        self.stored.append(asyncio.get_running_loop().create_future())
        return self.stored[-1]

    def names(self) -> list[str]:
        return [each[0] for each in self.done.mock_calls]

    def journaled(self) -> list[codec.Recorded]:
        appended = self.journal.append.mock_calls
        return [codec.decode(decode_record(each.args[0]).data) for each in appended]


@pytest.fixture
async def lane() -> Lane1:
    return Lane1()


def test_a_record_that_cannot_be_read_is_damage() -> None:
    sealed = Sealed("a.subject", "an-id", b"data")
    assert decode_record(encode_record(sealed)) == sealed
    with pytest.raises(CorruptError, match="cannot be read"):
        decode_record(b"torn")


@pytest.mark.parametrize("durability", Durability)
async def test_a_fact_is_journaled_before_anybody_has_it(
    lane: Lane1, durability: Durability
) -> None:
    stored = lane.facts.append(Append(event=RELEASED, durability=durability))
    assert stored is lane.stored[0]
    assert lane.names() == ["journal.append", "outbox.put"]
    is_synced = durability is Durability.JOURNALED
    assert lane.journal.append.mock_calls == [call(ANY, sync=is_synced, room=Room.NEED)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert lane.names()[2:] == ["journal.flush"] * (durability is Durability.FLUSHING)


async def test_a_flush_beside_comes_after_what_the_role_begins_beside_it(lane: Lane1) -> None:
    lane.facts.append(Append(event=RELEASED, durability=Durability.FLUSHING))
    await asyncio.sleep(0)
    assert not lane.journal.flush.called
    await asyncio.sleep(0)
    assert lane.journal.flush.called
    lane.journal.flush.side_effect = JournalFailedError("the disk failed")
    with pytest.raises(JournalFailedError):
        lane.facts.await_flush()
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    lane.facts.append(Append(event=RELEASED, durability=Durability.FLUSHING))
    for _ in range(3):
        await asyncio.sleep(0)
    assert failures == []


@pytest.mark.parametrize(
    ("wanted", "room"),
    [
        ({"held": True, "refusable": True}, Room.TAKE),
        ({"refusable": True}, Room.LEAVE),
        ({}, Room.NEED),
    ],
)
async def test_a_fact_takes_no_more_room_than_it_may(
    lane: Lane1, wanted: dict[str, bool], room: Room
) -> None:
    lane.facts.append(Append(event=GO, durability=Durability.LAGGING, **wanted))
    assert lane.journal.append.mock_calls[0].kwargs["room"] is room


async def test_what_the_journal_does_not_take_has_not_happened(lane: Lane1) -> None:
    """Neither is it handed on, nor does the lane go on from it, nor does the link tell of it."""
    lane.facts = Lane1("the-decision").facts
    lane.facts._journal = lane.journal
    lane.journal.append.side_effect = JournalFullError("no room")
    with pytest.raises(JournalFullError):
        lane.facts.append(Append(event=GO, durability=Durability.JOURNALED))
    assert lane.names() == ["journal.append"]
    lane.journal.append.side_effect = None
    promised = lane.facts.telling(link.Go())
    lane.facts.append(Append(event=GO, durability=Durability.JOURNALED))
    first, second = (recorded.envelope for recorded in lane.journaled())
    assert first.lane_sequence == second.lane_sequence == 1
    assert first.causation == second.causation == "the-decision"
    assert first.id != promised.fact == second.id


async def test_a_fact_says_what_it_came_of(lane: Lane1) -> None:
    """The first of a lane of its decision, others of what was heard, if the log had it."""
    facts = lane.facts
    facts._cause = "the-decision"
    facts.write(RELEASED, Durability.LAGGING, OWN)
    facts.causes = Mock(of=Mock(return_value=Cause("heard", is_logged=True)))
    facts.write(RELEASED, Durability.LAGGING)
    facts.causes = Mock(of=Mock(return_value=Cause("told", is_logged=False)))
    facts.write(RELEASED, Durability.LAGGING)
    facts.causes = Mock(of=Mock(return_value=Cause()))
    facts.write(RELEASED, Durability.LAGGING)
    envelopes = [recorded.envelope for recorded in lane.journaled()]
    assert [each.causation for each in envelopes] == ["the-decision", "heard", "", ""]
    assert [each.lane_sequence for each in envelopes] == [1, 2, 3, 4]
    headers = [each.args[3]() for each in lane.outbox.put.mock_calls]
    assert [each.get(CAUSE) for each in headers] == ["the-decision", "heard", "told", None]
    assert ".host-1." in lane.outbox.put.mock_calls[0].args[0]
    assert lane.outbox.put.mock_calls[0].args[0] != lane.outbox.put.mock_calls[1].args[0]


async def test_what_the_link_told_first_is_written_under_that_id(lane: Lane1) -> None:
    told = lane.facts.telling(link.Go())
    lane.facts.write(GO, Durability.LAGGING)
    (recorded,) = lane.journaled()
    assert recorded.envelope.id == told.fact
    assert lane.facts.telling(link.Go()).fact == told.fact


async def test_what_is_held_goes_before_the_next_and_late_by_itself(
    lane: Lane1, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HOLD_S_MAX", 60.0)
    loop = asyncio.get_running_loop()
    late: list[object] = []
    monkeypatch.setattr(loop, "call_later", lambda seconds, due: late.append((seconds, due)))
    held = Append(event=GO, durability=Durability.JOURNALED, held=True)
    assert lane.facts.append(held) is None
    assert lane.facts.append(held) is None
    assert late == [(60.0, lane.facts._hand_over_late)]
    assert not lane.outbox.put.called
    lane.facts.write(RELEASED, Durability.LAGGING)
    sequences = [
        codec.decode(each.args[1]).envelope.lane_sequence for each in lane.outbox.put.mock_calls
    ]
    assert sequences == [1, 2, 3]
    lane.outbox.put.side_effect = UnreachableError("full")
    lane.facts.append(held)
    lane.facts._hand_over_late()
    lane.outbox.put.side_effect = lane._put
    lane.facts._hand_over_late()
    lane.facts._hand_over_late()
    assert len(lane.outbox.put.mock_calls) == 5, "one of them was refused, and put again"


async def test_whoever_waits_until_all_is_stored_waits_for_what_is_held_too(lane: Lane1) -> None:
    await lane.facts.stored()
    await lane.facts.told(0.0)
    lane.facts.append(Append(event=GO, durability=Durability.JOURNALED, held=True))
    waiting = asyncio.create_task(lane.facts.stored())
    await asyncio.sleep(0)
    (last,) = lane.stored
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait({waiting})
    assert not last.cancelled()
    await lane.facts.told(0.0)
    assert not last.done()
    telling = asyncio.create_task(lane.facts.told(60.0))
    await asyncio.sleep(0)
    assert not telling.done()
    last.set_result(True)
    await telling
    await lane.facts.stored()


async def test_who_wants_the_log_to_be_told_gives_it_what_is_held_and_hears_of_no_failure(
    lane: Lane1,
) -> None:
    lane.facts.append(Append(event=GO, durability=Durability.JOURNALED, held=True))
    await lane.facts.told(0.0)
    assert lane.outbox.put.called
    lane.outbox.put.side_effect = UnreachableError("full")
    lane.facts.append(Append(event=GO, durability=Durability.JOURNALED, held=True))
    await lane.facts.told(0.0)


async def test_a_fact_is_acknowledged_or_not_in_time(lane: Lane1) -> None:
    stored = asyncio.get_running_loop().create_future()
    with pytest.raises(UnreachableError, match="did not answer within 0 s"):
        await acknowledged(stored, 0.0)
    assert not stored.cancelled()
    stored.set_result(False)
    with pytest.raises(UnreachableError, match="refused the event"):
        await acknowledged(stored, 60.0)
    stored = asyncio.get_running_loop().create_future()
    stored.set_result(True)
    await acknowledged(stored, 60.0)


async def test_a_signature_is_journaled_and_the_next_of_its_lane(lane: Lane1) -> None:
    """It may lag: the next life signs again what the disk has lost."""
    lane.facts.write(RELEASED, Durability.LAGGING)
    lane.done.reset_mock()
    signed = Sealed("a.subject", "an-id", lane.facts.writer.seal(GO).data)
    lane.facts.writer.sign = Mock(return_value=signed)
    assert lane.facts.sign(Mock()) is lane.stored[1]
    assert lane.names() == ["journal.append", "outbox.put"]
    assert lane.journal.append.mock_calls == [call(encode_record(signed), sync=False)]
    lane.facts.write(RELEASED, Durability.LAGGING)
    assert lane.journaled()[-1].envelope.lane_sequence == 3
    lane.journal.append.side_effect = JournalFullError("no room")
    with pytest.raises(JournalFullError):
        lane.facts.sign(Mock())
    lane.journal.append.side_effect = None
    lane.facts.write(RELEASED, Durability.LAGGING)
    assert lane.journaled()[-1].envelope.lane_sequence == 4


async def test_what_is_rehearsed_is_what_would_be_written(lane: Lane1) -> None:
    lane.facts.rehearse(Append(event=GO, durability=Durability.JOURNALED, to=OWN))
    (rehearsed,) = lane.journal.rehearse.mock_calls
    recorded = codec.decode(decode_record(rehearsed.args[0]).data)
    assert isinstance(recorded.event, ev.GoGiven)
    assert lane.names() == ["journal.rehearse"]
    lane.facts.write(GO, Durability.LAGGING)
    assert lane.journaled()[-1].envelope.lane_sequence == 1
