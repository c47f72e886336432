"""The verifier finds what it is for."""

from __future__ import annotations

from verify import faults_of_lanes, faults_of_migration

from godwit.runtime.clock import SystemClock
from godwit.runtime.lane import LaneWriter, Scope
from godwit_protocol import codec
from godwit_protocol.events import Event, Lane
from godwit_protocol.events import migration as ev

ENDED = ev.MigrationEnded(outcome=ev.Outcome.COMPLETED, reason=ev.AbortReason.NONE, message="")


def chain(*events: Event) -> list[tuple[bytes, int]]:
    writer = LaneWriter(SystemClock(), Lane.SOURCE, "host-1", Scope.of_migration("m1", "machine"))
    stored = []
    for sequence, event in enumerate(events, start=1):
        sealed = writer.seal(event)
        writer.advance(sealed)
        stored.append((sealed.data, sequence))
    return stored


def test_a_whole_chain_has_no_faults() -> None:
    assert not faults_of_lanes(chain(*[ev.MachineReleased()] * 3))


def test_gaps_doubles_and_foreign_events_are_found() -> None:
    first, second, third = chain(*[ev.MachineReleased()] * 3)
    assert "number 3 comes after 1" in faults_of_lanes([first, third])[0]
    assert "number 2 comes after 2" in faults_of_lanes([first, second, second, third])[0]
    _, foreign = chain(*[ev.MachineReleased()] * 2)
    assert "hash" in faults_of_lanes([first, foreign])[0]


def test_a_story_without_end_or_with_two_is_found() -> None:
    ended = [codec.decode(*each) for each in chain(ENDED, ENDED)]
    assert faults_of_migration(ended[:1]) == []
    assert faults_of_migration(ended) == ["migration_ended stands 2 times"]
    assert faults_of_migration([]) == ["it has no end"]
