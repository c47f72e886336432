"""The checked world: all that outlives a step, as small frozen tuples that hash fast.

Two hosts, each with a role's service, its journal and a VMM; the direct link between them; the
register; and how many faults may still come. A ``Draft`` is a world that is being changed, and
notes when one of the invariants is broken. It must not know why anything happens.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from .cores import NOTHING, Operation, Shown, standing
from .script import Message

SOURCE: Final = 0
DESTINATION: Final = 1
DOWN: Final = -1
"""Instead of a role's number: its service has crashed and will be restarted."""
UNBORN: Final = -2
"""The role has not begun."""
GONE: Final = -3
"""The host has died."""


class Vmm(IntEnum):
    """What a host's VMM does."""

    NONE = 0
    GATED = 1
    LOADED = 2
    RUNNING = 3
    PAUSED = 4
    DEAD = 5
    LOST = 6
    """Dead, as all is that ran on the host when it died."""


class Image(IntEnum):
    """What a host's memory holds of the machine. A destination's image counts once its VMM has
    loaded it, also where no journal says so yet.
    """

    NONE = 0
    INCOMING = 1
    """Not whole yet; as new as the paused machine."""
    SPOILT = 2
    """Not whole, and the machine has run on elsewhere."""
    CURRENT = 3
    STALE = 4
    """Whole, but the machine has run on elsewhere."""


class Violation(IntEnum):
    """What must never happen."""

    TWO_RUN = 1
    NONE_LEFT = 2
    STALE_RUNS = 3
    REFUSED = 4
    STUCK = 5
    ENDLESS = 6
    ENDED_WRONGLY = 7


class Side(NamedTuple):
    """One host."""

    role: int
    vmm: Vmm
    image: Image
    journal: int = 0
    unsynced: int = 0
    """Facts that a crash may take or leave."""
    posted: int = 0
    """Facts of a dead host that the log had got."""
    pending: tuple[Operation, ...] = ()
    heard: tuple[Message, ...] = ()
    """On the direct link, on its way to this host."""

    def with_role(self, role: int) -> Side:
        """The same, with another state of the role (as ``_replace``, and several times faster)."""
        _, vmm, image, journal, unsynced, posted, pending, heard = self
        return Side(role, vmm, image, journal, unsynced, posted, pending, heard)

    def with_pending(self, pending: tuple[Operation, ...]) -> Side:
        """The same, with other work under way."""
        role, vmm, image, journal, unsynced, posted, _, heard = self
        return Side(role, vmm, image, journal, unsynced, posted, pending, heard)

    def with_heard(self, heard: tuple[Message, ...]) -> Side:
        """The same, with something else on the link."""
        role, vmm, image, journal, unsynced, posted, pending, _ = self
        return Side(role, vmm, image, journal, unsynced, posted, pending, heard)


class Budget(NamedTuple):
    """How many faults of each kind may still come."""

    crashes: int = 0
    link_losses: int = 0
    lost_messages: int = 0
    """One message of many does not arrive, which TCP would not do."""
    doubled_messages: int = 0
    """A message is heard a second time, at any time after the first."""
    host_deaths: int = 0
    host_returns: int = 0
    """A host that died is switched on again: its journal is there, its machine is not."""
    lost_writes: int = 0
    strays: int = 0
    """Register writes that are given up for lost, and may yet land at any time."""
    local_failures: int = 0
    """A service is told that something of its own failed."""
    vmm_deaths: int = 0
    orders: int = 0
    """An operator orders a host to run the machine, whom no alarm has called."""


class Echo(NamedTuple):
    """What ``who`` has heard on the link, and will hear once more."""

    who: int
    message: Message


NOTHING_LOST: Final = Shown(NOTHING, 0)


class World(NamedTuple):
    """All that there is. ``register``: its values' numbers, the oldest first."""

    source: Side
    destination: Side
    is_linked: bool
    register: tuple[int, ...]
    seen: Shown
    """What the register showed before it lost a write; a host may have seen it, or not."""
    knowing: int
    """Sides, as bits, whose host has seen it, and keeps that in mind."""
    strays: tuple[Operation, ...]
    echoes: tuple[Echo, ...]
    ordered: int
    """Sides, as bits, that an operator has told to run what they have, and that have not yet."""
    is_given_up: bool
    """The coordinator has ended the migration, the machine being lost with its hosts."""
    left: Budget

    def side(self, who: int) -> Side:
        """One host."""
        return self.destination if who else self.source


class Draft:
    """A world being changed."""

    __slots__ = (
        "echoes",
        "is_given_up",
        "is_linked",
        "knowing",
        "left",
        "ordered",
        "register",
        "seen",
        "sides",
        "strays",
        "violation",
    )

    def __init__(self, world: World) -> None:
        self.sides = [world.source, world.destination]
        self.is_linked = world.is_linked
        self.register = world.register
        self.seen = world.seen
        self.knowing = world.knowing
        self.strays = world.strays
        self.echoes = world.echoes
        self.ordered = world.ordered
        self.is_given_up = world.is_given_up
        self.left = world.left
        self.violation: Violation | None = None

    def copy(self) -> Draft:
        """An independent draft of the same world."""
        draft = Draft.__new__(Draft)
        draft.sides = [*self.sides]
        draft.is_linked = self.is_linked
        draft.register = self.register
        draft.seen = self.seen
        draft.knowing = self.knowing
        draft.strays = self.strays
        draft.echoes = self.echoes
        draft.ordered = self.ordered
        draft.is_given_up = self.is_given_up
        draft.left = self.left
        draft.violation = self.violation
        return draft

    def world(self) -> World:
        """The world as it is now."""
        origin, target = self.sides
        return World(
            origin,
            target,
            self.is_linked,
            self.register,
            self.seen,
            self.knowing,
            self.strays,
            self.echoes,
            self.ordered,
            self.is_given_up,
            self.left,
        )

    # One host.

    def begin(self, who: int, operation: Operation) -> None:
        """Put work under way; what is already, is not doubled."""
        side = self.sides[who]
        if operation not in side.pending:
            self.sides[who] = side.with_pending(tuple(sorted((*side.pending, operation))))

    def end(self, who: int, operation: Operation) -> None:
        """Work has come to its end."""
        side = self.sides[who]
        pending = tuple([item for item in side.pending if item != operation])
        self.sides[who] = side.with_pending(pending)

    def post(self, who: int, fact: int, *, is_synced: bool) -> None:
        """Write a fact into the journal; a synchronous one takes all before it to the disk."""
        side = self.sides[who]
        if is_synced:
            journal = side.journal | side.unsynced | fact
            self.sides[who] = side._replace(journal=journal, unsynced=0)
        elif not side.journal & fact:
            self.sides[who] = side._replace(unsynced=side.unsynced | fact)

    def flush(self, who: int) -> None:
        """All that was written is on the disk."""
        side = self.sides[who]
        self.sides[who] = side._replace(journal=side.journal | side.unsynced, unsynced=0)

    # The machine.

    def order(self, who: int) -> None:
        """An operator has ``who`` run what it has, be it older than what the other side had."""
        if self.sides[who].vmm is not Vmm.RUNNING:
            self.ordered |= 1 << who

    def run(self, who: int) -> None:
        """The machine runs on ``who``; what the other side holds of it is old from now on. An order
        excuses one run of the side that it was given to, whose image is then the current one.
        """
        mine, other = self.sides[who], self.sides[1 - who]
        if mine.vmm is Vmm.RUNNING:
            return
        if other.vmm is Vmm.RUNNING:
            self.violation = Violation.TWO_RUN
        elif mine.image is not Image.CURRENT and not self.ordered & 1 << who:
            self.violation = Violation.STALE_RUNS
        self.ordered &= ~(1 << who)
        image = mine.image if self.violation else Image.CURRENT
        self.sides[who] = mine._replace(vmm=Vmm.RUNNING, image=image)
        self.sides[1 - who] = other._replace(image=_AGED[other.image])

    def pause(self, who: int) -> None:
        """The guest stops; from now on the last pages can go out."""
        self.sides[who] = self.sides[who]._replace(vmm=Vmm.PAUSED)
        other = self.sides[1 - who]
        if other.image is Image.NONE and other.vmm is Vmm.GATED:
            self.sides[1 - who] = other._replace(image=Image.INCOMING)

    def load(self, who: int) -> None:
        """The whole image is in memory, and the guest has its checkpoint."""
        side = self.sides[who]
        image = Image.CURRENT if side.image is Image.INCOMING else Image.STALE
        self.sides[who] = side._replace(vmm=Vmm.LOADED, image=image)

    def free(self, who: int) -> None:
        """The VMM ends, and its memory with it."""
        side = self.sides[who]
        is_only = who == SOURCE or self.sides[SOURCE].image is not Image.CURRENT
        if side.image is Image.CURRENT and is_only:
            self.violation = Violation.NONE_LEFT
        self.sides[who] = side._replace(vmm=Vmm.NONE, image=Image.NONE)

    # The direct link.

    def say(self, who: int, message: Message) -> None:
        """``who`` says something; without a link it is dropped. Said twice in a row it is once."""
        other = self.sides[1 - who]
        if self.is_linked and other.heard[-1:] != (message,):
            self.sides[1 - who] = other.with_heard((*other.heard, message))

    def echo(self, echo: Echo) -> None:
        """Have a message heard once more, after all that is being heard."""
        self.echoes = tuple(sorted({*self.echoes, echo}))

    def close_link(self, who: int) -> None:
        """``who`` closes its end: what it said arrives, then the other hears the end."""
        self.say(who, Message.END)
        self.is_linked = False
        self.sides[who] = self.sides[who].with_heard(())

    # The register.

    def write(self, operation: Operation) -> bool:
        """A compare-and-set arrives. Returns whether it was taken."""
        if len(self.register) != operation.expected:
            return False
        self.register = (*self.register, operation.record)
        return True

    def lose_write(self) -> None:
        """The register loses the last write that it has acknowledged. It may have lost more before:
        who has seen that remembers it.
        """
        if self.seen is NOTHING_LOST:
            self.seen = standing(self.register)
        self.register = self.register[:-1]


_AGED: Final = {
    Image.NONE: Image.NONE,
    Image.INCOMING: Image.SPOILT,
    Image.SPOILT: Image.SPOILT,
    Image.CURRENT: Image.STALE,
    Image.STALE: Image.STALE,
}
