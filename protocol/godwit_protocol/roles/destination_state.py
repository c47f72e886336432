"""What the destination knows of a migration: its phases, its state, its deadlines."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from .. import register as reg
from ..events import migration as ev
from ..events.migration import AbortReason

GRACE_NS: Final = 30_000_000_000
"""Beyond a deadline of the source's: by then it must have ended the migration."""
LOOK_NS: Final = 5_000_000_000
"""How often a destination that waits in STAGED looks what became of the machine."""
UNCLEAR_ALARM: Final = 5


class Phase(StrEnum):
    """Where the destination is."""

    PREPARING = "preparing"
    PREPARED = "prepared"
    POPULATING = "populating"
    RECEIVING = "receiving"
    LOADING = "loading"
    STAGED = "staged"
    ACTIVATING = "activating"
    OPENING = "opening"
    QUARANTINED = "quarantined"
    DISCARDING = "discarding"
    DOUBTING = "doubting"
    ACTIVE = "active"
    DISCARDED = "discarded"
    FAILED = "failed"


TERMINAL: Final = frozenset({Phase.ACTIVE, Phase.DISCARDED, Phase.FAILED})
MAY_BE_ORDERED: Final = frozenset(
    {Phase.STAGED, Phase.ACTIVATING, Phase.QUARANTINED, Phase.DOUBTING}
)
"""Where an operator's order to run, or the proof that it needs, can move the destination on."""
INCOMPLETE: Final = (
    Phase.PREPARING,
    Phase.PREPARED,
    Phase.POPULATING,
    Phase.RECEIVING,
    Phase.LOADING,
)


class DestinationState(msgspec.Struct, frozen=True, kw_only=True):
    """All that the destination knows of one migration."""

    phase: Phase
    migration: str
    machine: str
    host: str
    source: str
    verify: ev.Verify
    register: reg.RegisterView
    found_epoch: int
    """The one in which the migration found the machine."""
    deadline_ns: int
    abort_reason: AbortReason = AbortReason.NONE
    abort_message: str = ""
    unclear: int = 0
    fenced: bool = False
    """The source's host cannot run anything any more."""
    alarm_ns: int = 0
    """When a GO that has not come is worth an alarm."""
    alarmed: bool = False

    def has_gone_on(self, standing: reg.RegisterView) -> bool:
        """Whether the machine has lived on elsewhere, past this migration: see ``register``."""
        return reg.has_gone_on(standing.record, self.migration, self.found_epoch)


def next_deadline_ns(state: DestinationState) -> int | None:
    """When the state wants a ``Tick``; None if never."""
    if state.phase is Phase.QUARANTINED:
        return None if state.alarmed else state.deadline_ns
    waits = state.phase in INCOMPLETE or state.phase is Phase.STAGED
    return state.deadline_ns if waits and state.phase is not Phase.LOADING else None
