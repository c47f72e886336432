"""Which reservation a machine sits under: a fold of events, whatever was folded before."""

from __future__ import annotations

from godwit.gpu_state_tracker.occupancy import Fate, Occupancy
from godwit.runtime.clock import SystemClock
from godwit.runtime.lane import LaneWriter, Scope
from godwit_protocol import codec
from godwit_protocol.events import Event, Lane
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import AbortReason, Outcome
from godwit_protocol.machine import MachineSpec
from godwit_protocol.roles.tracker import ReservationOver, ReservationUsed

SPEC = MachineSpec(name="m", guest="module:Guest", ram_bytes=4096)
COMPLETED = ev.MigrationEnded(outcome=Outcome.COMPLETED)
ABORTED = ev.MigrationEnded(outcome=Outcome.ABORTED, reason=AbortReason.CANCELLED)


def learned(occupancy: Occupancy, scope: Scope, event: Event) -> tuple[Fate, ...]:
    sealed = LaneWriter(SystemClock(), Lane.SOURCE, "host-1", scope).seal(event)
    return occupancy.learn(codec.decode(sealed.data))


def started(occupancy: Occupancy, start: str) -> tuple[Fate, ...]:
    event = mev.MachineStarted(start=start, spec=SPEC, register_epoch=1)
    return learned(occupancy, Scope.of_machine("m"), event)


def over(fates: tuple[Fate, ...]) -> list[str]:
    return [fate.reservation for fate in fates if isinstance(fate, ReservationOver)]


def used(fates: tuple[Fate, ...]) -> list[str]:
    return [fate.reservation for fate in fates if isinstance(fate, ReservationUsed)]


def test_a_machine_that_moved_has_left_its_seat() -> None:
    occupancy = Occupancy()
    assert used(started(occupancy, "start")) == ["start"]
    fates = learned(occupancy, Scope.of_migration("there", "m"), COMPLETED)
    assert (over(fates), used(fates)) == (["start"], ["there"])


def test_there_and_back_leaves_only_the_last_seat() -> None:
    occupancy = Occupancy()
    started(occupancy, "start")
    for migration in ("there", "back"):
        learned(occupancy, Scope.of_migration(migration, "m"), COMPLETED)
    assert isinstance(occupancy.fate_of("start"), ReservationOver)
    assert isinstance(occupancy.fate_of("there"), ReservationOver)
    assert isinstance(occupancy.fate_of("back"), ReservationUsed)


def test_an_aborted_migration_leaves_the_machine_where_it_sits() -> None:
    occupancy = Occupancy()
    started(occupancy, "start")
    assert over(learned(occupancy, Scope.of_migration("there", "m"), ABORTED)) == ["there"]
    assert isinstance(occupancy.fate_of("start"), ReservationUsed)


def test_a_stopped_machine_sits_nowhere() -> None:
    occupancy = Occupancy()
    started(occupancy, "start")
    assert over(learned(occupancy, Scope.of_machine("m"), mev.MachineStopped())) == ["start"]
    assert learned(occupancy, Scope.of_machine("m"), mev.MachineStopped()) == ()


def test_a_machine_that_failed_keeps_its_seat_until_it_is_started_again() -> None:
    occupancy = Occupancy()
    started(occupancy, "start")
    failed = mev.MachineFailed(message="it raised")
    assert learned(occupancy, Scope.of_machine("m"), failed) == ()
    assert over(started(occupancy, "again")) == ["start"]


def test_an_event_told_twice_says_nothing_new() -> None:
    occupancy = Occupancy()
    started(occupancy, "start")
    assert started(occupancy, "start") == ()


def test_a_refused_start_is_over() -> None:
    occupancy = Occupancy()
    refused = mev.MachineStartRefused(start="start", code="guest", message="it raised")
    assert over(learned(occupancy, Scope.of_machine("m"), refused)) == ["start"]
    assert occupancy.fate_of("other") is None
