"""Claims: who gets one, who keeps it, and who may free it."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from godwit.coordinator.claims import ATTEMPTS_MAX, Claims
from godwit.runtime.clock import SystemClock
from godwit.runtime.event_log import AppendConflictError
from godwit.runtime.lane import Scope
from godwit_protocol import subjects
from godwit_protocol.errors import ConflictError
from godwit_protocol.events import Lane
from godwit_protocol.events import migration as ev
from godwit_protocol.register import Claim, decode_claim, encode_claim
from memory_log import MemoryLog


class Contested(MemoryLog):
    """A log in which others write claims just before this one does."""

    def __init__(self, *others: str) -> None:
        super().__init__()
        self.others = list(others)
        self.tries = 0

    async def append(self, subject: str, data: bytes, **given: object) -> int:
        self.tries += 1
        if self.others:
            claim = Claim(machine="m", migration=self.others.pop(0))
            await super().append(subject, encode_claim(claim), message_id="another's")
        return await super().append(subject, data, **given)  # type: ignore[arg-type]


def claims(log: MemoryLog) -> Claims:
    return Claims(log, SystemClock())  # type: ignore[arg-type]


async def holder(log: MemoryLog, machine: str = "m") -> str:
    stored = await log.last(subjects.claim(machine))
    assert stored is not None
    return decode_claim(stored.data).migration


async def ended(log: MemoryLog, migration: str) -> None:
    event = ev.MigrationEnded(outcome=ev.Outcome.COMPLETED)
    await log.say(Lane.COORDINATOR, "c", Scope.of_migration(migration, "m"), event)


async def test_a_free_machine_is_claimed_once() -> None:
    log = MemoryLog()
    assert await claims(log).take("m", "now") == "now"
    assert await holder(log) == "now"
    assert await claims(log).take("m", "now") == "now"
    assert len(log.stored) == 1
    assert await claims(log).take("m", "another") == "now"
    await claims(log).release("m", "now")
    assert await holder(log) == ""
    assert await claims(log).take("m", "another") == "another"
    assert await holder(log) == "another"


async def test_the_claim_of_a_migration_that_has_ended_is_taken_over_by_others() -> None:
    log = MemoryLog()
    await claims(log).take("m", "old")
    await ended(log, "old")
    assert await claims(log).take("m", "old") == "old"
    assert len(log.stored) == 2
    assert await claims(log).take("m", "now") == "now"
    assert await holder(log) == "now"


async def test_whoever_was_faster_has_it() -> None:
    assert await claims(Contested("faster")).take("m", "now") == "faster"


async def test_a_claim_that_was_freed_meanwhile_is_taken() -> None:
    log = Contested("")
    assert await claims(log).take("m", "now") == "now"
    assert (log.tries, await holder(log)) == (2, "now")


async def test_a_claim_is_freed_by_whose_it_is_alone() -> None:
    log = MemoryLog()
    await claims(log).take("m", "now")
    await claims(log).release("m", "another")
    assert (len(log.stored), await holder(log)) == (1, "now")
    await claims(log).release("m", "now")
    await claims(log).release("m", "now")
    assert (len(log.stored), await holder(log)) == (2, "")


async def test_a_claim_that_another_replica_freed_meanwhile_is_left_to_whoever_has_it() -> None:
    log = Contested()
    await claims(log).take("m", "now")
    log.others = ["another"]
    await claims(log).release("m", "now")
    assert await holder(log) == "another"


async def test_a_claim_that_was_written_again_meanwhile_is_freed() -> None:
    log = Contested()
    await claims(log).take("m", "now")
    log.others = ["now"]
    await claims(log).release("m", "now")
    assert await holder(log) == ""


async def test_it_is_not_tried_for_ever() -> None:
    log = Contested(*[""] * (ATTEMPTS_MAX + 1))
    with pytest.raises(ConflictError, match="changes all the time") as given_up:
        await claims(log).take("m", "now")
    assert not isinstance(given_up.value, AppendConflictError)
    assert log.tries == ATTEMPTS_MAX
    log = Contested()
    await claims(log).take("m", "now")
    log.others, log.tries = ["now"] * (ATTEMPTS_MAX + 1), 0
    with pytest.raises(ConflictError, match="changes all the time"):
        await claims(log).release("m", "now")
    assert log.tries == ATTEMPTS_MAX


async def test_of_a_machine_that_no_claim_can_name_nothing_is_asked() -> None:
    log = Mock(spec=[])
    await Claims(log, SystemClock()).release("no name!", "now")


async def test_what_ended_migrations_hold_is_freed_and_nothing_else() -> None:
    log = MemoryLog()
    for machine, migration in (("a", "over"), ("b", "runs"), ("c", "freed"), ("d", "over")):
        await claims(log).take(machine, migration)
    await claims(log).release("c", "freed")
    await log.append(subjects.claim("b"), b"not a claim", message_id="x")
    await log.append(
        subjects.claim("b"), encode_claim(Claim(machine="b", migration="runs")), message_id="y"
    )
    for migration in ("over", "freed"):
        await ended(log, migration)
    before = len(log.stored)
    await claims(log).release_ended()
    assert [await holder(log, each) for each in "abcd"] == ["", "runs", "", ""]
    assert len(log.stored) == before + 2
