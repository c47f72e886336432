"""Following a migration: until it has ended, with what a host flushes late, and not for ever."""

import asyncio

import msgspec
import pytest
from told_log import Teller

from godwit.cli import progress
from godwit.cli.progress import SilentDisplay, follow
from godwit.pictures.board import Progress
from godwit.runtime.lane import Scope
from godwit_protocol import subjects
from godwit_protocol.errors import DeadlineError
from godwit_protocol.events import Lane, Recorded
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import Outcome
from godwit_protocol.projections import MigrationSummary

WAIT_S = 20.0


class Watching:
    """A display that remembers."""

    def __init__(self) -> None:
        self.types: list[str] = []
        self.telemetry: asyncio.Queue[Progress] = asyncio.Queue(10)

    def told(self, recorded: Recorded, summary: MigrationSummary) -> None:
        self.types.append(recorded.envelope.type)

    def moved(self, progress: Progress) -> None:
        self.telemetry.put_nowait(progress)


async def test_the_end_ends_it(teller: Teller, unique_name: str) -> None:
    migration = await teller.request(unique_name, "host-2")
    display = Watching()
    following = asyncio.create_task(follow(teller.log, migration, display, wait_s=WAIT_S))
    await teller.end(migration, unique_name, Outcome.ABORTED, ev.AbortReason.CANCELLED)
    summary = await following
    assert (summary.outcome, summary.reason) == (Outcome.ABORTED, ev.AbortReason.CANCELLED)
    assert display.types == ["migration_requested", "migration_ended"]


async def test_the_stun_may_be_told_after_the_end(teller: Teller, unique_name: str) -> None:
    migration = await teller.request(unique_name, "host-2")
    scope = Scope.of_migration(migration, unique_name)
    stunned = ev.MachineStunned(stopped_ns=1, checkpoint_bytes=1)
    await teller.tell(Lane.SOURCE, "host-1", scope, stunned)
    await teller.end(migration, unique_name, Outcome.COMPLETED)
    following = asyncio.create_task(follow(teller.log, migration, SilentDisplay(), wait_s=WAIT_S))
    activated = ev.MachineActivated(register_sequence=1, owned_ns=1, first_step_ns=5_000_001)
    await teller.tell(Lane.DESTINATION, "host-2", scope, activated)
    assert (await following).stun_ns == 5_000_000


async def test_without_a_coordinator_it_says_so(
    teller: Teller, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "TAKEN_UP_S_MAX", 0.3)
    migration = await teller.request(unique_name, "host-2")
    with pytest.raises(DeadlineError, match="no coordinator"):
        await follow(teller.log, migration, SilentDisplay(), wait_s=WAIT_S)


async def test_it_does_not_wait_for_ever(teller: Teller, unique_name: str) -> None:
    migration = await teller.request(unique_name, "host-2")
    with pytest.raises(DeadlineError, match="has not ended") as caught:
        await follow(teller.log, migration, SilentDisplay(), wait_s=0.3)
    assert "goes on" in caught.value.hint


async def test_a_doubt_ends_it(
    teller: Teller, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "STRAGGLERS_S_MAX", 0.2)
    migration = await teller.request(unique_name, "host-2")
    scope = Scope.of_migration(migration, unique_name)
    doubt = ev.DoubtRaised(message="host-1 is silent")
    await teller.tell(Lane.COORDINATOR, "coordinator-1", scope, doubt)
    summary = await follow(teller.log, migration, SilentDisplay(), wait_s=WAIT_S)
    assert (summary.outcome, summary.message) == (Outcome.IN_DOUBT, "host-1 is silent")


async def test_telemetry_is_shown_and_nonsense_passed_over(
    teller: Teller, unique_name: str
) -> None:
    migration = await teller.request(unique_name, "host-2")
    display = Watching()
    following = asyncio.create_task(follow(teller.log, migration, display, wait_s=WAIT_S))
    subject = subjects.telemetry("migration", migration, "progress")
    data = msgspec.msgpack.encode({"round": 2, "sent_bytes": 10, "news": "ignored"})
    async with asyncio.timeout(WAIT_S):
        # It may be lost, so it is said until it is heard.
        while display.telemetry.empty():
            await teller.log.announce(subject, b"\xc1")
            await teller.log.announce(subject, data)
            await teller.log.last(subjects.register(unique_name))
    assert display.telemetry.get_nowait() == Progress(round=2, sent_bytes=10)
    await teller.end(migration, unique_name, Outcome.ABORTED)
    await following
