"""What the harness' world is made of: roles, memory, the link, and what is on its way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from godwit_protocol import link
from godwit_protocol.events import Event, Lane
from godwit_protocol.events import migration as ev
from godwit_protocol.machine import MachineSpec, VGpuSpec
from godwit_protocol.roles import coordinator, destination, source
from godwit_protocol.roles import effects as fx
from godwit_protocol.roles.inputs import Input
from godwit_protocol.roles.source_state import next_deadline_ns as source_deadline_ns

PAGES = 4
PAGE_BYTES = 4096
START_NS = 1_000_000_000_000
MIGRATION = "00e8d4a5-1000-7000-8000-00000000004d"
SPEC = MachineSpec(
    name="m1",
    guest="godwit.guests.memhog:Memhog",
    ram_bytes=PAGES * PAGE_BYTES,
    vgpus=(VGpuSpec("H100XM-4C", 4 * 1024**3),),
)
LIMITS = ev.Limits(stun_limit_ns=500_000_000, deadline_ns=60_000_000_000, rounds_max=6)


class Role(Enum):
    SOURCE = "source"
    DESTINATION = "destination"
    COORDINATOR = "coordinator"

    @property
    def host(self) -> str:
        return {"source": "host-1", "destination": "host-2"}.get(self.value, "coordinator-1")

    @property
    def lane(self) -> Lane:
        return Lane(self.value)


SOURCE, DESTINATION, COORDINATOR = Role
CORES = {SOURCE: source, DESTINATION: destination, COORDINATOR: coordinator}
Step = Callable[[Any, Input, int], tuple[Any, tuple[fx.Effect, ...]]]
STEPS: dict[Role, Step] = {role: core.step for role, core in CORES.items()}
DEADLINES: dict[Role, Callable[[Any], int | None]] = {
    SOURCE: source_deadline_ns,
    DESTINATION: destination.next_deadline_ns,
    COORDINATOR: coordinator.next_deadline_ns,
}


class Action(NamedTuple):
    """Something that can happen now. ``fault``: only in a bad world."""

    name: str
    do: Callable[[], None]
    fault: bool = False


@dataclass
class Vmm:
    """One side's memory: a version number a page."""

    pages: list[int] | None = None
    executes: bool = False
    whole: bool = False
    broken: bool = False
    has_run: bool = False
    """Since the stun; nothing is current but itself then."""
    dirty: set[int] = field(default_factory=set)


@dataclass
class Link:
    """The direct link: ordered each way; bulk and control overtake each other."""

    up: bool = False
    closing: set[Role] = field(default_factory=set)
    control: dict[Role, deque[link.LinkMessage | None]] = field(
        default_factory=lambda: {SOURCE: deque(), DESTINATION: deque()}
    )
    bulk: deque[tuple[int, dict[int, int]]] = field(default_factory=deque)


class Outgoing(NamedTuple):
    """An event on its way to the log. ``data`` None: a decision, sealed when it is written."""

    data: bytes | None
    event: Event
    to: fx.Address | None
    acknowledges: bool


@dataclass
class Journal:
    """The types of a service's facts, in order; so many of them are on the disk."""

    types: list[str] = field(default_factory=list)
    flushed: int = 0

    def append(self, event: Event, durability: fx.Durability) -> None:
        self.types.append(event.TYPE)
        if durability is fx.Durability.JOURNALED:
            self.flush()

    def flush(self) -> None:
        self.flushed = len(self.types)

    def lose(self) -> int:
        """Forget what is not on the disk. Returns how many facts those were."""
        lost = len(self.types) - self.flushed
        del self.types[self.flushed :]
        return lost


class Pending(NamedTuple):
    """An effect that has not come to its end."""

    role: Role
    effect: fx.Effect


def peer(role: Role) -> Role:
    return DESTINATION if role is SOURCE else SOURCE


ON_LINK = (fx.OpenLink, fx.SendRound, fx.SendFinal)
ON_VMM = (
    fx.PauseMachine,
    fx.ResumeMachine,
    fx.SendRound,
    fx.SendFinal,
    fx.PrepareMachine,
    fx.Populate,
    fx.LoadImage,
    fx.OpenGate,
)
FALLIBLE = (
    fx.PauseMachine,
    fx.ResumeMachine,
    fx.PrepareMachine,
    fx.Populate,
    fx.LoadImage,
    fx.OpenGate,
    fx.TakeClaim,
    fx.ReadRegister,
)
