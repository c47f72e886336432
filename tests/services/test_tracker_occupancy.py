"""Which reservation a machine sits under: a fold of events, whatever was folded before."""

from __future__ import annotations

import pytest

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
from orders import preparation

SPEC = MachineSpec(name="m", guest="module:Guest", ram_bytes=4096)
COMPLETED = ev.MigrationEnded(outcome=Outcome.COMPLETED)
ABORTED = ev.MigrationEnded(outcome=Outcome.ABORTED, reason=AbortReason.CANCELLED)


def learned(occupancy: Occupancy, scope: Scope, event: Event) -> tuple[Fate, ...]:
    sealed = LaneWriter(SystemClock(), Lane.SOURCE, "host-1", scope).seal(event)
    return occupancy.learn(codec.decode(sealed.data))


def started(occupancy: Occupancy, start: str, epoch: int = 1) -> tuple[Fate, ...]:
    event = mev.MachineStarted(start=start, spec=SPEC, register_epoch=epoch)
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


def ordered(occupancy: Occupancy, migration: str, epoch: int) -> tuple[Fate, ...]:
    event = preparation(SPEC, "host-1", "host-2", register_epoch=epoch)
    return learned(occupancy, Scope.of_migration(migration, "m"), event)


@pytest.mark.parametrize("is_started_anew", [False, True])
def test_an_end_told_after_the_machine_was_stopped_takes_no_seat(is_started_anew: bool) -> None:
    """The coordinator was slow: its word that the machine had moved came when that was history."""
    occupancy = Occupancy()
    started(occupancy, "start")
    ordered(occupancy, "there", epoch=1)
    stopped = mev.MachineStopped(register_epoch=2)
    assert over(learned(occupancy, Scope.of_machine("m"), stopped)) == ["start"]
    if is_started_anew:
        assert used(started(occupancy, "again", epoch=3)) == ["again"]
    fates = learned(occupancy, Scope.of_migration("there", "m"), COMPLETED)
    assert (over(fates), used(fates)) == (["there"], [])
    assert isinstance(occupancy.fate_of("again"), ReservationUsed) == is_started_anew


def test_a_machine_started_anew_moves_as_any_other() -> None:
    occupancy = Occupancy()
    started(occupancy, "start", epoch=3)
    ordered(occupancy, "there", epoch=3)
    fates = learned(occupancy, Scope.of_migration("there", "m"), COMPLETED)
    assert (over(fates), used(fates)) == (["start"], ["there"])


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
