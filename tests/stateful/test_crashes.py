"""A service dies at every point of a good migration: it ends, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from checks import check_end, check_lanes
from crashes import crash, may_crash
from harness import World
from invariants import check_invariants
from parts import COORDINATOR, DESTINATION, SOURCE, Role
from scenarios import after, reached

from godwit_protocol import register as reg


def worlds() -> Iterator[World]:
    """One for each step of a good migration."""
    steps = 0
    while any(not action.fault for action in after(steps).actions()):
        yield after(steps)
        steps += 1


def came_to_rest(world: World) -> None:
    world.drain()
    check_invariants(world)
    check_end(world)
    check_lanes(world)


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("role", Role)
def test_a_service_may_die_at_any_time(role: Role, keeps: bool, done: bool) -> None:
    phases = set()
    for world in worlds():
        if may_crash(world, role):
            phases.add(world.phase(role))
            crash(world, role, keeps=keeps, done=done)
            came_to_rest(world)
            assert role in world.restarted
    assert len(phases) >= 7, "a good migration has more of them"


@pytest.mark.parametrize("role", [SOURCE, DESTINATION])
def test_a_service_may_die_when_its_register_has_lost_a_write(role: Role) -> None:
    """Then nobody may be able to tell; but it is said, and the machine is there."""
    lost = 0
    for world in worlds():
        if len(world.register) > 1 and may_crash(world, role):
            world.lose_write()
            crash(world, role, keeps=False, done=True)
            came_to_rest(world)
            lost += 1
    assert lost


def test_what_was_not_flushed_is_lost_and_its_lane_goes_on_without_a_gap() -> None:
    world = reached(SOURCE, "copying")
    stunned = world.journals[SOURCE].types[-1]
    assert stunned == "machine_stunned"
    crash(world, SOURCE, keeps=False, done=True)
    assert stunned not in world.journals[SOURCE].types
    came_to_rest(world)
    assert stunned not in {recorded.envelope.type for recorded in world.log.recorded}
    assert world.vmms[SOURCE].executes


def test_a_coordinator_writes_no_decision_twice_and_asks_for_nothing_twice() -> None:
    for world in worlds():
        if may_crash(world, COORDINATOR):
            crash(world, COORDINATOR, keeps=True, done=False)
            came_to_rest(world)
            said = [recorded.envelope.type for recorded in world.log.recorded]
            assert len(said) == len(set(said)), said
            assert said[-1] == "migration_ended" or world.phase(SOURCE) == "released"


@pytest.mark.parametrize("moment", ["it folds the log", "it is about to write it", "it has"])
def test_a_dead_coordinators_decision_may_arrive_when_its_successor_has_begun(moment: str) -> None:
    """What is there first stands, and alone."""
    arrived = 0
    for world in worlds():
        if not world.log.outbox[COORDINATOR] or not may_crash(world, COORDINATOR):
            continue
        crash(world, COORDINATOR, keeps=False, done=False)
        world.do("restart of coordinator")
        if moment != "it folds the log":
            world.run_until(lambda: bool(world.log.outbox[COORDINATOR]))  # noqa: B023
        if moment == "it has":
            world.do("store of coordinator")
        stored = len(world.log.recorded)
        world.do("late decision lands")
        arrived += len(world.log.recorded) - stored
        came_to_rest(world)
        said = [recorded.envelope.type for recorded in world.log.recorded]
        assert len(said) == len(set(said)), said
        assert said[-1] == "migration_ended" or world.phase(SOURCE) == "released"
    assert (arrived > 0) == (moment != "it has")


def test_a_destination_that_claimed_opens_the_gate_when_it_is_back() -> None:
    world = reached(DESTINATION, "activating")
    crash(world, DESTINATION, keeps=False, done=True)
    assert world.register[-1].value is reg.RegisterValue.MOVED
    assert not world.vmms[DESTINATION].executes
    came_to_rest(world)
    assert world.vmms[DESTINATION].executes
    assert world.phase(SOURCE) == "released"
