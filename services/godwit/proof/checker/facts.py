"""What a journal may hold that somebody reads again: its role after a restart, the other side, the
coordinator. Each fact is a bit, and has one form. It must not know what anybody makes of it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from godwit_protocol.events import Event
from godwit_protocol.events import migration as ev
from godwit_protocol.events.machine import MachineFailed
from godwit_protocol.roles import effects as fx
from godwit_protocol.roles.coordinator_facts import input_of

from . import script


class Fact(IntEnum):
    """A fact; the value is its bit."""

    PREPARED = 1
    STUNNED = 2
    GO_GIVEN = 4
    TAKEN_BACK = 8
    RELEASED = 16
    ABANDONED = 32
    STAGED = 64
    DISCARDED = 128
    ACTIVATING = 256
    QUARANTINED = 512
    ACTIVATED = 1024
    ABORT_INTENDED = 2048
    FAILED = 4096
    """The VMM is dead, which the other side is told."""
    DIED = 8192
    """The same, told to nobody in particular: the coordinator reads it all the same."""
    REFUSED = 16384


EVENTS: Final[dict[Fact, Event]] = {
    Fact.PREPARED: ev.DestinationPrepared(address="link", port=1, token=b"", create_ns=1),
    Fact.STUNNED: ev.MachineStunned(stopped_ns=1, checkpoint_bytes=1),
    Fact.GO_GIVEN: ev.GoGiven(staged_heard_ns=1),
    Fact.TAKEN_BACK: ev.MachineTakenBack(reason=script.WHY, register_sequence=1),
    Fact.RELEASED: ev.MachineReleased(),
    Fact.ABANDONED: ev.MigrationAbandoned(reason=script.WHY),
    Fact.STAGED: ev.ImageStaged(
        pages=1, received_bytes=1, received_ns=1, staged_ns=1, verified=ev.Verify.OFF
    ),
    Fact.DISCARDED: ev.ImageDiscarded(reason=script.WHY),
    Fact.ACTIVATING: ev.ActivationStarted(go_heard_ns=1),
    Fact.QUARANTINED: ev.ImageQuarantined(reason=script.WHY),
    Fact.ACTIVATED: ev.MachineActivated(register_sequence=1, owned_ns=1, first_step_ns=1),
    Fact.ABORT_INTENDED: ev.AbortIntended(reason=script.WHY),
    Fact.FAILED: MachineFailed(message=""),
    Fact.DIED: MachineFailed(message=""),
    Fact.REFUSED: ev.PreparationRefused(message=""),
}
"""The events. One that is not here is forgotten at once: nobody decides by it."""
_FACTS: Final = {event.TYPE: fact for fact, event in EVENTS.items() if fact is not Fact.DIED}


class FactTypes(frozenset[str]):
    """Types of facts, as recovery asks for them. Asking for one that is forgotten is a defect of
    the checker, not of the core.
    """

    def __contains__(self, item: object) -> bool:
        assert item in _FACTS, f"recovery reads {item}, which the checker does not keep"
        return super().__contains__(item)


def types_of(facts: int) -> FactTypes:
    """The types of the events in a journal that holds ``facts``."""
    return FactTypes(event.TYPE for fact, event in EVENTS.items() if facts & fact)


def fact_of(effect: fx.Append) -> int:
    """The bit of what somebody reads again, or 0."""
    event = effect.event
    if isinstance(event, MachineFailed) and effect.to is None:
        return Fact.DIED
    fact = _FACTS.get(event.TYPE, 0)
    is_kept = bool(fact) or input_of(event) is None
    assert is_kept, f"the coordinator hears {event.TYPE}, which the checker does not keep"
    return fact
