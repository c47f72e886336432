"""One cell of the matrix: a migration, stopped at a step, with a fault at one party; and what came.

The step is where a service has stopped itself; while it stands there, the fault is done. On the way
to a step of an abort another one has stopped before, at a step of a migration that goes well.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import aftermath
from arena import (
    LIMITS,
    POLL_S,
    REACHED_S_MAX,
    Arena,
    Setting,
    ViolatedError,
    send,
    until,
)
from processes import is_dead
from steps import BEFORE_THE_SOURCE, Course, Role, Step, step

from godwit.runtime.nats_server import NatsServer
from godwit_protocol.errors import GodwitError
from godwit_protocol.events import Event
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import Outcome
from godwit_protocol.subjects import EVENTS, REGISTER
from nats_cluster import NatsCluster
from operations import NO_CONVERGENCE


class Party(StrEnum):
    """Who is hit."""

    SOURCE = "source host service"
    DESTINATION = "destination host service"
    SOURCE_VMM = "source VMM"
    DESTINATION_VMM = "destination VMM"
    NATS = "nats-server"
    COORDINATOR = "coordinator"
    TRACKER = "tracker"
    ONE_OF_TWO = "one of two coordinators"
    REGISTER_LEADER = "of three nats-servers, the register's leader"
    EVENTS_LEADER = "of three nats-servers, the events' leader"
    LINK = "direct link"
    LINK_FROM_SOURCE = "direct link, source to destination"
    LINK_FROM_DESTINATION = "direct link, destination to source"
    LOG_OF_SOURCE = "source's way to the log"
    LOG_OF_DESTINATION = "destination's way to the log"
    DISK_OF_SOURCE = "source's journal disk"
    DISK_OF_DESTINATION = "destination's journal disk"


class Fault(StrEnum):
    """What is done to it."""

    KILL = "SIGKILL, restart"
    CUT = "cut 7 s"
    FULL = "full 2 s"
    KILL_FULL = "full 2 s, its service SIGKILL, restart"
    STOP_LONG = "SIGSTOP 7 s"
    STOP_SHORT = "SIGSTOP 2 s"


LASTS_S: Final = {
    Fault.STOP_SHORT: 2.0,
    Fault.STOP_LONG: 7.0,
    Fault.CUT: 7.0,
    Fault.FULL: 2.0,
    Fault.KILL_FULL: 2.0,
}
"""Less and more than a direct link's silence may last."""


class Result(StrEnum):
    """What became of the machine."""

    MOVED = "→"
    STAYED = "←"
    DEAD = "†"
    DOUBT = "?"
    NONE = "·"
    """The party is not there at this step."""
    BAD = "✗"


PROCESSES: Final = frozenset(
    {
        Party.SOURCE,
        Party.DESTINATION,
        Party.SOURCE_VMM,
        Party.DESTINATION_VMM,
        Party.NATS,
        Party.COORDINATOR,
        Party.TRACKER,
        Party.ONE_OF_TWO,
    }
)
VMMS: Final = frozenset({Party.SOURCE_VMM, Party.DESTINATION_VMM})
HELD_BY_SOURCE: Final = frozenset(
    {"s1", "s2", "s3", "s4", "s5", "s6", "s7", "d1", "d2", "d3", "d4"}
    | {"x1", "x2", "x3", "x4", "x5", "x6", "b4", "b5", "r6"}
)
"""Here the source's VMM alone has the machine: the last pages are still to be sent, or it has run
again, and what the destination has is stale.
"""
TAKEN_BACK: Final = frozenset({"b1", "b2", "b3", "r2", "r3", "r4", "r5"})
"""The register gives the machine back to the source, or is about to, whose VMM has not run: the
destination's has the machine, and runs it only if an operator says so."""
CONTESTED: Final = "r1"
"""The source is about to write that it aborts, and the destination that it owns the machine."""
CLAIMED: Final = "d10"
"""The register names the destination, whose VMM has not run: the source's has the machine, and runs
it only if an operator says so."""
HELD_BY_DESTINATION: Final = frozenset({"s11", "s12", "s13", "d11", "d12"})
"""The machine runs at the destination: what the source's VMM has is stale, or is gone."""
ABSENT: Final = {
    Party.SOURCE_VMM: frozenset({"s13", "d12"}),
    Party.DESTINATION_VMM: frozenset({"d1"}),
}
"""Where a VMM is gone, or still to come."""
MAY_LEAVE: Final = "d12"
"""ACTIVE is said: the source, which nobody has stopped, frees its VMM while that is to be hit."""
LEADERS: Final = {Party.REGISTER_LEADER: REGISTER, Party.EVENTS_LEADER: EVENTS}
DISKS: Final = frozenset({Party.DISK_OF_SOURCE, Party.DISK_OF_DESTINATION})


def is_wired(party: Party) -> bool:
    """Whether hitting it needs ``wires``, and so root."""
    return party not in PROCESSES and party not in LEADERS


def faults_of(party: Party) -> tuple[Fault, ...]:
    """What can be done to it."""
    if party in PROCESSES:
        return (Fault.KILL, Fault.STOP_LONG, Fault.STOP_SHORT)
    if party in LEADERS:
        return (Fault.KILL,)
    return (Fault.FULL, Fault.KILL_FULL) if party in DISKS else (Fault.CUT,)


def setting_of(party: Party) -> Setting:
    """The arena that it takes."""
    if party in LEADERS:
        return Setting.THREE_SERVERS
    return Setting.TWO_COORDINATORS if party is Party.ONE_OF_TWO else Setting.PLAIN


@dataclass(frozen=True, slots=True)
class Cell:
    """Where the matrix is hit."""

    party: Party
    fault: Fault
    step: Step

    def __str__(self) -> str:
        return f"{self.party}, {self.fault}, at {self.step.key} ({self.step.role} {self.step.name})"

    @property
    def may_become(self) -> frozenset[Result]:
        """What is no violation: only who held the machine alone may take it to the grave, and a
        disk that fills hinders no journal that is there. A source's is not, until it is told to
        start.
        """
        runs = frozenset({Result.MOVED, Result.STAYED})
        if self.fault is Fault.FULL:
            is_early = self.party is Party.DISK_OF_SOURCE and self.step in BEFORE_THE_SOURCE
            return runs if is_early else frozenset({Result.MOVED})
        if self.party not in VMMS:
            is_abort = self.step.course is not Course.GOES_WELL and self.step.key != CONTESTED
            return frozenset({Result.STAYED}) if is_abort else runs
        if self.step.key in ABSENT[self.party]:
            may_leave = self.step.key == MAY_LEAVE
            return frozenset({Result.NONE, Result.MOVED} if may_leave else {Result.NONE})
        if self.fault is not Fault.KILL:
            return runs
        if self.step.key == CONTESTED:
            return frozenset({Result.MOVED, Result.DOUBT})
        return frozenset({self._of_a_dead_vmm})

    @property
    def _of_a_dead_vmm(self) -> Result:
        """What must become of the machine: it runs where the other VMM has it, if one has it."""
        key = self.step.key
        if self.party is Party.SOURCE_VMM:
            if key in TAKEN_BACK:
                return Result.DOUBT
            return Result.DEAD if key in HELD_BY_SOURCE else Result.MOVED
        if key in HELD_BY_DESTINATION:
            return Result.DEAD
        return Result.DOUBT if key == CLAIMED else Result.STAYED


@dataclass(frozen=True, slots=True)
class CellOutcome:
    """What came of a cell."""

    cell: Cell
    result: Result
    detail: str
    took_s: float


@dataclass(frozen=True, slots=True)
class Opening:
    """How a migration comes to its abort. It has these limits. ``at`` this step a service stands;
    if ``is_cancelled``, an operator cancels now. The service goes on when an event of the kind
    ``until`` is in the log, or when the step that is looked for is reached before.
    """

    at: Step
    until: type[Event]
    is_cancelled: bool = True
    limits: ev.Limits = LIMITS


OPENINGS: Final = {
    Course.CANCELLED: Opening(step("s3"), ev.AbortOrdered, limits=NO_CONVERGENCE),
    Course.TAKEN_BACK: Opening(step("d7"), ev.MigrationAbandoned),
    Course.RECLAIMED: Opening(step("d8"), ev.AbortIntended, is_cancelled=False),
}


async def run_cell(arena: Arena, cell: Cell) -> CellOutcome:
    """Run it. A violation is an outcome too; after one nothing in the arena can be relied on."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    try:
        result, detail = await _run(arena, cell)
        if result not in cell.may_become:
            result, detail = Result.BAD, f"{result} is none of this cell's: {detail}"
        if result is Result.DEAD:
            subject = arena.subject
            await arena.bury_machine()
            await aftermath.look_once_more(arena, subject)
    except (ViolatedError, GodwitError, TimeoutError, AssertionError) as error:
        result, detail = Result.BAD, f"{type(error).__name__}: {error}"
    arena.unplan()
    return CellOutcome(cell, result, detail, loop.time() - began_s)


async def _run(arena: Arena, cell: Cell) -> tuple[Result, str]:
    subject = await arena.machine()
    source = await arena.owner()
    destination = arena.other(source)
    migration = await _come_to(arena, subject.name, cell.step, source, destination)
    stopped = _who_takes(arena, cell.step, source, destination)
    victim = _victim(arena, cell.party, source, destination)
    if victim is None:
        send(stopped, signal.SIGCONT)
        await aftermath.ended(arena, migration)
        await aftermath.check(arena, migration)
        return Result.NONE, ""
    await victim(cell.fault, stopped)
    end = await aftermath.ended(arena, migration)
    if end is None:
        alarm = await aftermath.doubt(arena, migration)
        await aftermath.resolve(arena, migration)
        if not await aftermath.check(arena, migration):
            raise ViolatedError(f"it does not run where an operator ordered it to, after: {alarm}")
        return Result.DOUBT, alarm
    lives = await aftermath.check(arena, migration)
    detail = f"{end.reason} {end.message}".strip()
    if not lives:
        return Result.DEAD, detail
    return (Result.MOVED if end.outcome is Outcome.COMPLETED else Result.STAYED), detail


async def _come_to(arena: Arena, machine: str, wanted: Step, source: str, destination: str) -> str:
    """Ask for a migration, and return its id when a service stands at the step. No other does."""
    opening = OPENINGS.get(wanted.course)
    at = _host_of(wanted, source, destination)
    if opening is None:
        is_reached = arena.plan(at, wanted)
        migration = await arena.operations.request(machine, destination, LIMITS)
        await until(is_reached, REACHED_S_MAX, f"step {wanted.key}")
        return migration
    stands = arena.plan(_host_of(opening.at, source, destination), opening.at)
    migration = await arena.operations.request(machine, destination, opening.limits)
    await until(stands, REACHED_S_MAX, f"step {opening.at.key}")
    stopped = _who_takes(arena, opening.at, source, destination)
    is_reached = arena.plan(at, wanted)
    if opening.is_cancelled:
        await arena.cancel(migration)
    async with asyncio.timeout(REACHED_S_MAX):
        while not (is_reached() or await _has_come(arena, migration, opening.until)):  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
    send(stopped, signal.SIGCONT)
    await until(is_reached, REACHED_S_MAX, f"step {wanted.key}")
    return migration


async def _has_come(arena: Arena, migration: str, kind: type[Event]) -> bool:
    return kind.TYPE in await arena.operations.types(migration)


def _host_of(taken: Step, source: str, destination: str) -> str:
    return source if taken.role is Role.SOURCE else destination


def _who_takes(arena: Arena, taken: Step, source: str, destination: str) -> int:
    """The process that takes a step."""
    return arena.pid(arena.service(_host_of(taken, source, destination), taken.role))


Hit = Callable[[Fault, int], Awaitable[None]]
"""Does a fault to a party; the second argument is the process that stands at the step."""


def _victim(arena: Arena, party: Party, source: str, destination: str) -> Hit | None:
    """How the party is hit; None if it is not there."""
    services = {
        Party.COORDINATOR: "coordinator",
        Party.ONE_OF_TWO: "coordinator",
        Party.TRACKER: "gpu_state_tracker",
        Party.SOURCE: f"{source}-source_host",
        Party.DESTINATION: f"{destination}-destination_host",
    }
    if party in services:
        return _service(arena, services[party])
    if party is Party.NATS:
        return _nats(arena)
    if party in LEADERS:
        return _leader(arena, LEADERS[party])
    if party in DISKS:
        return _disk(arena, *_of_disk(party, source, destination))
    if party not in VMMS:
        return _wire(arena, party, source, destination)
    pid = arena.vmm_pid(source if party is Party.SOURCE_VMM else destination)
    return None if pid is None else _process(pid)


def _service(arena: Arena, name: str) -> Hit:
    async def hit(fault: Fault, stopped: int) -> None:
        pid = arena.pid(name)
        if fault is Fault.KILL:
            await arena.cluster.kill(name)
            send(stopped, signal.SIGCONT)
            await arena.cluster.restart(name)
        else:
            await _stop_and_continue(pid, stopped, LASTS_S[fault])

    return hit


def _process(pid: int) -> Hit:
    async def hit(fault: Fault, stopped: int) -> None:
        if fault is Fault.KILL:
            send(pid, signal.SIGKILL)
            await until(lambda: is_dead(pid), REACHED_S_MAX, "its death")
            send(stopped, signal.SIGCONT)
        else:
            await _stop_and_continue(pid, stopped, LASTS_S[fault])

    return hit


def _nats(arena: Arena) -> Hit:
    server = arena.servers
    assert isinstance(server, NatsServer), "such a cell needs an arena with one server"

    async def hit(fault: Fault, stopped: int) -> None:
        if fault is Fault.KILL:
            await server.kill()
            send(stopped, signal.SIGCONT)
            await server.restart()
        else:
            await _stop_and_continue(server.pid, stopped, LASTS_S[fault])

    return hit


def _leader(arena: Arena, stream: str) -> Hit:
    servers = arena.servers
    assert isinstance(servers, NatsCluster), "such a cell needs an arena with three servers"

    async def hit(_fault: Fault, stopped: int) -> None:
        """It comes back when another one leads: for 4 to 7 s the stream takes nothing."""
        leader = await servers.leader_of(stream)
        await servers.kill(leader)
        send(stopped, signal.SIGCONT)
        await servers.leader_of(stream)
        await servers.start_server(leader)
        await servers.all_current()

    return hit


def _wire(arena: Arena, party: Party, source: str, destination: str) -> Hit:
    wires = arena.wires
    assert wires is not None, "such a cell needs an arena with wires"

    async def cut() -> None:
        match party:
            case Party.LINK:
                await wires.cut_link()
            case Party.LINK_FROM_SOURCE:
                await wires.lose_what_is_sent_by(source)
            case Party.LINK_FROM_DESTINATION:
                await wires.lose_what_is_sent_by(destination)
            case Party.LOG_OF_SOURCE:
                await wires.cut_log(source)
            case _:
                await wires.cut_log(destination)

    async def mend() -> None:
        match party:
            case Party.LINK | Party.LINK_FROM_SOURCE | Party.LINK_FROM_DESTINATION:
                await wires.mend_link()
            case Party.LOG_OF_SOURCE:
                wires.mend_log(source)
            case _:
                wires.mend_log(destination)

    async def hit(fault: Fault, stopped: int) -> None:
        await cut()
        send(stopped, signal.SIGCONT)
        await asyncio.sleep(LASTS_S[fault])
        await mend()

    return hit


def _of_disk(party: Party, source: str, destination: str) -> tuple[str, str]:
    """Whose disk it is, and which service's journal."""
    if party is Party.DISK_OF_SOURCE:
        return source, f"{source}-source_host"
    return destination, f"{destination}-destination_host"


def _disk(arena: Arena, host: str, service: str) -> Hit:
    wires = arena.wires
    assert wires is not None, "such a cell needs an arena with wires"

    async def hit(fault: Fault, stopped: int) -> None:
        wires.fill_disk(host)
        if fault is Fault.KILL_FULL:
            await arena.cluster.kill(service)
        send(stopped, signal.SIGCONT)
        if fault is Fault.KILL_FULL:
            await arena.cluster.restart(service)
        await asyncio.sleep(LASTS_S[fault])
        wires.free_disk(host)

    return hit


async def _stop_and_continue(pid: int, stopped: int, wait_s: float) -> None:
    """The time is the fault. What stands at the step goes on, unless it is what is hit."""
    send(pid, signal.SIGSTOP)
    if stopped != pid:
        send(stopped, signal.SIGCONT)
    await asyncio.sleep(wait_s)
    send(pid, signal.SIGCONT)
