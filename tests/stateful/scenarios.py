"""Worlds that went well, or badly in one way: for the golden traces and the exhaustive tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from harness import World
from parts import COORDINATOR, DESTINATION, LIMITS, PAGES, SOURCE, Role

from godwit_protocol import register as reg
from godwit_protocol.events import bandwidth as bev
from godwit_protocol.events import migration as ev

Scenario = Callable[[], World]
_MEDDLING = ("an operator cancels", "the deadline passes")


def reached(role: Role, phase: str, limits: ev.Limits = LIMITS) -> World:
    """A world that went well until ``role`` came to ``phase``."""
    world = World(limits)
    world.run_until(lambda: world.phase(role) == phase)
    return world


def happy() -> World:
    """The guest writes three pages in the first round, and one just before the stun."""
    world = reached(SOURCE, "precopying")
    world.run_until(lambda: 1 in world.rounds_sent)
    for page in (1, 2, 3):
        world.guest_writes(page)
    world.run_until(lambda: world.phase(SOURCE) == "pausing")
    world.guest_writes(0)
    world.drain()
    return world


def stopped_and_copied() -> World:
    """No pre-copy: the machine is stunned first, and all of it sent then."""
    world = World(ev.Limits(rounds_max=0))
    world.drain()
    return world


def reservation_refused() -> World:
    world = World()
    world.refuse_reservation = True
    world.drain()
    return world


def destination_refuses() -> World:
    world = reached(DESTINATION, "preparing")
    world.do("PrepareMachine fails")
    world.drain()
    return world


def destination_dies_before_the_stun() -> World:
    world = reached(SOURCE, "precopying")
    world.kill_destination()
    world.drain()
    return world


def stun_limit_cannot_be_met() -> World:
    """Every page is written again in every round, and sending them takes longer than the limit."""
    world = World(ev.Limits(stun_limit_ns=6_000_000, deadline_ns=60_000_000_000, rounds_max=6))
    world.run_until(lambda: world.phase(SOURCE) == "precopying")

    def write_all() -> bool:
        for page in range(PAGES):
            world.guest_writes(page)
        return world.phase(SOURCE) == "abandoned"

    world.run_until(write_all)
    world.drain()
    return world


def cancelled_before_the_stun() -> World:
    world = reached(SOURCE, "precopying")
    world.say_to_log(ev.CancelRequested(requested_by="an operator"))
    world.run_until(lambda: world.phase(SOURCE) == "abandoned")
    world.drain()
    return world


def bandwidth_changed() -> World:
    """Once before the source is told to start, twice while it sends, and when it is too late."""
    world = reached(COORDINATOR, "preparing")
    world.say_to_log(bandwidth(1, 125_000))
    world.run_until(lambda: world.phase(SOURCE) == "precopying")
    world.say_to_log(bandwidth(2, 250_000))
    world.say_to_log(bandwidth(3, 0))
    world.run_until(lambda: world.phase(SOURCE) == "released")
    world.say_to_log(bandwidth(4, 125_000))
    world.drain()
    return world


def bandwidth(number: int, bytes_per_second: int) -> bev.BandwidthRequested:
    return bev.BandwidthRequested(
        order=f"request {number}",
        bandwidth_bytes_per_second=bytes_per_second,
        requested_by="an operator",
    )


def deadline_passed() -> World:
    world = reached(SOURCE, "precopying", ev.Limits(deadline_ns=1_000_000_000))
    world.pass_time()
    world.drain()
    return world


def link_lost_after_staging() -> World:
    world = reached(SOURCE, "staging")
    world.break_link()
    world.drain()
    return world


def link_lost_after_go() -> World:
    world = reached(SOURCE, "committed")
    world.break_link()
    world.drain()
    return world


def link_lost_while_opening() -> World:
    world = reached(DESTINATION, "opening")
    world.break_link()
    world.drain()
    return world


GOLDEN: dict[str, Scenario] = {
    "happy": happy,
    "stopped-and-copied": stopped_and_copied,
    "reservation-refused": reservation_refused,
    "destination-refuses": destination_refuses,
    "destination-dies-before-the-stun": destination_dies_before_the_stun,
    "stun-limit-cannot-be-met": stun_limit_cannot_be_met,
    "cancelled-before-the-stun": cancelled_before_the_stun,
    "bandwidth-changed": bandwidth_changed,
    "deadline-passed": deadline_passed,
    "link-lost-after-staging": link_lost_after_staging,
    "link-lost-after-go": link_lost_after_go,
    "link-lost-while-opening": link_lost_while_opening,
}


def taken_back_and_broken() -> World:
    """The source took the machine back, and cannot run it; the destination holds a whole image."""
    world = reached(DESTINATION, "staged")
    world.break_link()
    world.run_until(lambda: world.phase(SOURCE) == "resuming")
    world.do("ResumeMachine fails")
    world.drain()
    return world


def register_taken_by_a_stranger() -> World:
    """What must never happen: the destination then holds still and says so."""
    world = reached(DESTINATION, "activating")
    world.register.append(reg.stopped(world.register[-1]))
    while world.phase(DESTINATION) == "activating":
        world.do("CompareAndSet succeeds")
    world.drain()
    return world


def one_fault_worlds() -> Iterator[World]:
    """Each kind of trouble once in each situation of a good migration, and on to the end."""
    seen: set[tuple[str, ...]] = set()
    steps = 0
    while True:
        for name in _troubles(after(steps)):
            world = after(steps)
            situation = (*(world.phase(role) for role in Role), name)
            if situation not in seen:
                seen.add(situation)
                _meddle(world, name)
                world.drain()
                yield world
        if not [action for action in after(steps).actions() if not action.fault]:
            return
        steps += 1


def after(steps: int) -> World:
    """A good migration, so many steps on."""
    world = World()
    for _ in range(steps):
        next(action for action in world.actions() if not action.fault).do()
    return world


def _troubles(world: World) -> list[str]:
    faults = [action.name for action in world.actions() if action.fault]
    return [*_MEDDLING, *dict.fromkeys(faults)]


def _meddle(world: World, name: str) -> None:
    if name == _MEDDLING[0]:
        world.say_to_log(ev.CancelRequested())
    elif name == _MEDDLING[1]:
        world.pass_time()
    else:
        world.do(name)
