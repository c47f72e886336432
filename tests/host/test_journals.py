"""The journals of a host's migrations: begun with a decision, found again, and ended."""

from __future__ import annotations

import asyncio
from pathlib import Path
from unittest.mock import AsyncMock, Mock, call

import pytest

from godwit.host import journals as module
from godwit.host.disk import HostDirectory
from godwit.host.journals import Journals, OpenMigration
from godwit.runtime.clock import SystemClock
from godwit.runtime.journal import JournalFullError
from godwit.runtime.lane import ChainPosition, LaneWriter, Scope
from godwit_protocol import codec
from godwit_protocol.events import Lane
from godwit_protocol.events import migration as ev
from godwit_protocol.events.signed import LaneSigned
from godwit_protocol.roles.effects import Durability

FACTS = (
    ev.MachineStunned(stopped_ns=1, checkpoint_bytes=0),
    ev.GoGiven(staged_heard_ns=1),
    ev.MachineReleased(),
)


def decision() -> bytes:
    writer = LaneWriter(SystemClock(), Lane.OPERATOR, "desk", Scope.of_migration("now", "m"))
    return writer.seal(ev.MigrationAbandoned(reason=ev.AbortReason.CANCELLED)).data


class Host:
    """One whose log holds the first so many facts of its lane."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, stored: int = 0) -> None:
        self.outbox = Mock()
        self.outbox.put.side_effect = lambda *_, **__: asyncio.get_running_loop().create_future()
        host = Mock(clock=SystemClock(), outbox=self.outbox, disk=HostDirectory(path), signer=None)
        host.name = "host-1"
        self.context = host
        position = AsyncMock(
            return_value=ChainPosition(stored, b"h" * 32) if stored else ChainPosition()
        )
        monkeypatch.setattr(module, "position_in_log", position)
        self.journals = Journals(host, "a_service", Lane.SOURCE)

    def put(self) -> list[int]:
        """The sequences, in their lane, of what was given to the outbox."""
        data = [each.args[1] for each in self.outbox.put.mock_calls]
        return [codec.decode(each).envelope.lane_sequence for each in data]


def begun(host: Host) -> OpenMigration:
    opened = host.journals.create("now", "m", decision())
    for fact in FACTS:
        opened.facts.write(fact, Durability.LAGGING)
    opened.journal.close()
    return opened


async def test_a_migration_begins_with_its_decision_on_the_disk() -> None:
    host = Mock(clock=SystemClock())
    host.name = "host-1"
    folder = host.disk.journals.return_value
    decided = decision()
    opened = Journals(host, "a_service", Lane.SOURCE).create("now", "m", decided)
    assert folder.begin.mock_calls[0] == call("now")
    assert folder.begin.return_value.append.mock_calls == [call(decided, sync=True)]
    assert folder.mock_calls[-1] == call.keep_blank()
    assert (opened.past, opened.disk_full) == ((), "")
    folder.keep_blank.side_effect = JournalFullError("no room")
    assert Journals(host, "a_service", Lane.SOURCE).keep_blank() == "no room"


@pytest.mark.parametrize("stored", [0, 1, 3])
async def test_what_the_log_has_not_got_is_handed_over_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: int
) -> None:
    begun(Host(tmp_path, monkeypatch))
    host = Host(tmp_path, monkeypatch, stored)
    assert host.journals.leftovers() == ["now"]
    opened = await host.journals.reopen("now")
    assert opened is not None
    assert opened.past_types == {fact.TYPE for fact in FACTS}
    assert host.put() == list(range(stored + 1, len(FACTS) + 1))
    opened.facts.write(FACTS[-1], Durability.LAGGING)
    assert host.put()[-1] == len(FACTS) + 1


async def test_what_the_disk_has_lost_and_the_log_has_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(Host(tmp_path, monkeypatch))
    host = Host(tmp_path, monkeypatch, stored=7)
    opened = await host.journals.reopen("now")
    assert opened is not None
    opened.facts.write(FACTS[-1], Durability.LAGGING)
    assert host.put() == [8]


async def test_a_journal_without_its_decision_was_never_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(tmp_path, monkeypatch)
    HostDirectory(tmp_path).journals("a_service").begin("now").close()
    assert await host.journals.reopen("now") is None
    assert host.journals.leftovers() == []


@pytest.mark.parametrize(
    ("signer", "past_types", "is_signed"),
    [(None, set(), False), (Mock(), {LaneSigned.TYPE}, False), (Mock(), set(), True)],
)
async def test_a_journal_is_ended_once_the_log_has_all_of_a_lane_that_is_signed_once(
    monkeypatch: pytest.MonkeyPatch, signer: object, past_types: set[str], is_signed: bool
) -> None:
    host = Mock(signer=signer)
    folder = host.disk.journals.return_value
    stored = asyncio.Event()
    facts = Mock(stored=stored.wait)
    opened = Mock(facts=facts, past_types=past_types, migration="now")
    settling = asyncio.create_task(Journals(host, "a_service", Lane.SOURCE).settle(opened))
    for _ in range(5):
        await asyncio.sleep(0)
    assert facts.sign.called is is_signed
    assert not folder.end.called
    stored.set()
    await settling
    assert folder.end.mock_calls == [call("now", opened.journal)]
