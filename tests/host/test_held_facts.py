"""Facts of a stun are journaled at once, and handed to the outbox when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from godwit.host import facts as facts_module
from godwit.host.facts import FactWriter, decode_record
from godwit.runtime.clock import SystemClock
from godwit.runtime.journal import Journal
from godwit.runtime.lane import LaneWriter, Scope
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.outbox import Outbox
from godwit_protocol import subjects
from godwit_protocol.events import Event, Lane
from godwit_protocol.events import migration as ev
from godwit_protocol.roles.effects import Append, Durability

GO = ev.GoGiven(staged_heard_ns=1)
STUNNED = ev.MachineStunned(stopped_ns=1, checkpoint_bytes=0)
RELEASED = ev.MachineReleased()


class Lanes:
    """One lane of a migration, and what the log has of it."""

    def __init__(self, log: NatsLog, migration: str, journal: Journal) -> None:
        self.log = log
        self.outbox = Outbox(log)
        self.journal = journal
        scope = Scope.of_migration(migration, "m")
        self.filters = subjects.whole_migration(migration)
        writer = LaneWriter(SystemClock(), Lane.SOURCE, "host-1", scope)
        self.facts = FactWriter(writer, journal, self.outbox)

    def hold(self, event: Event) -> None:
        """As the roles do it in a stun."""
        held = Append(event=event, durability=Durability.JOURNALED, held=True)
        assert self.facts.append(held) is None

    async def stored(self) -> list[str]:
        """Types of events, in the log's order."""
        return [each.subject.rpartition(".")[2] async for each in self.log.read(self.filters)]


@pytest.fixture
async def lane(log: NatsLog, tmp_path: Path, unique_name: str) -> AsyncIterator[Lanes]:
    lane = Lanes(log, unique_name, Journal.open(tmp_path / "journal"))
    yield lane
    await lane.outbox.close()
    lane.journal.close()


async def test_what_is_held_goes_out_with_the_next_and_in_order(
    lane: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts_module, "HOLD_S_MAX", 60.0)
    lane.hold(STUNNED)
    lane.hold(GO)
    assert lane.outbox.depth == 0
    assert await lane.facts.write(RELEASED, Durability.LAGGING)
    expected = [each.TYPE for each in (STUNNED, GO, RELEASED)]
    assert await lane.stored() == expected
    lane.journal.close()
    again = Journal.open(lane.journal.path)
    kept = [decode_record(record).subject.rpartition(".")[2] for record in again.records]
    again.close()
    assert kept == expected, "they were journaled when they were written"


async def test_what_is_held_goes_out_by_itself_and_when_all_is_to_be_stored(
    log: NatsLog, lane: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts_module, "HOLD_S_MAX", 0.01)
    lane.hold(STUNNED)
    async with asyncio.timeout(10), aclosing(log.tail(lane.filters)) as tail:
        await anext(tail)
    monkeypatch.setattr(facts_module, "HOLD_S_MAX", 60.0)
    lane.hold(GO)
    await lane.facts.stored()
    assert await lane.stored() == [STUNNED.TYPE, GO.TYPE]


async def test_a_closed_outbox_is_given_nothing_and_the_journal_keeps_it(
    lane: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts_module, "HOLD_S_MAX", 0.0)
    failures: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: failures.append(context))
    await lane.outbox.close()
    lane.hold(GO)
    for _ in range(3):
        await asyncio.sleep(0)
    assert failures == []
    assert await lane.stored() == []
