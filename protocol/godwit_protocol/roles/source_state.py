"""What the source knows of a migration: its phases, its state, its deadlines."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from .. import register as reg
from ..events import migration as ev
from ..events.migration import AbortReason

SWITCHOVER_STEP_DEADLINE_NS: Final = 10_000_000_000
"""How long ACTIVE or QUARANTINED may take to come."""
STAGED_NS_MIN: Final = 3_000_000_000
"""What STAGED may take in any case, if the last copy has left nothing of the stun's limit: to take
the machine back then costs the whole migration. Less than a link may be silent.
"""
FULL_VERIFICATION_NS: Final = 120_000_000_000
"""What hashing both whole images may take on top of each deadline: it is asked for, to be sure."""
UNCLEAR_ALARM: Final = 5
"""Unclear register writes in a row before the alarm is raised; trying goes on."""


class Phase(StrEnum):
    """Where the source is."""

    CONNECTING = "connecting"
    PRECOPYING = "precopying"
    INTENDING = "intending"
    PAUSING = "pausing"
    COPYING = "copying"
    STAGING = "staging"
    COMMITTED = "committed"
    TAKING_BACK = "taking_back"
    ABORTING = "aborting"
    AWAITING_QUARANTINE = "awaiting_quarantine"
    RECLAIMING = "reclaiming"
    RESUMING = "resuming"
    YIELDED = "yielded"
    RELEASING = "releasing"
    DOUBTING = "doubting"
    RELEASED = "released"
    ABANDONED = "abandoned"


TERMINAL: Final = frozenset({Phase.RELEASED, Phase.ABANDONED})
MAY_BE_ORDERED: Final = frozenset(
    {Phase.ABORTING, Phase.AWAITING_QUARANTINE, Phase.YIELDED, Phase.DOUBTING}
)
"""Where an operator's order to run, or the proof that it needs, can move the source on."""
NEVER_STOPPED: Final = (Phase.CONNECTING, Phase.PRECOPYING, Phase.INTENDING)


class SourceState(msgspec.Struct, frozen=True, kw_only=True):
    """All that the source knows of one migration."""

    phase: Phase
    migration: str
    machine: str
    host: str
    destination: str
    limits: ev.Limits
    verify: ev.Verify
    register: reg.RegisterView
    found_epoch: int
    """The one in which the migration found the machine."""
    deadline_ns: int
    migration_deadline_ns: int
    history: tuple[ev.RoundFigures, ...] = ()
    rounds_sent: int = 0
    slow_percent: int = 0
    """Of the guest's time, taken from it now."""
    bandwidth_change: int = 0
    """The coordinator's last order of a bandwidth that was heard."""
    stopped_ns: int = 0
    never_stunned: bool = False
    """After a restart: this migration has not stunned the machine."""
    abort_reason: AbortReason = AbortReason.NONE
    abort_message: str = ""
    quarantined: bool = False
    """The destination has promised not to run its image."""
    fenced: bool = False
    """The destination's host cannot run anything any more."""
    gave_up: bool = False
    """The destination has been promised that nothing runs here any more."""
    unclear: int = 0
    alarmed: bool = False

    @property
    def verification_ns(self) -> int:
        """What the verification may add to a deadline of the stun."""
        return FULL_VERIFICATION_NS if self.verify is ev.Verify.FULL else 0

    @property
    def peer_runs_nothing(self) -> bool:
        """Whether it is proven that the destination does not run the machine, nor will."""
        return self.quarantined or self.fenced

    def has_gone_on(self, standing: reg.RegisterView) -> bool:
        """Whether the machine has lived on elsewhere, past this migration: see ``register``."""
        return reg.has_gone_on(standing.record, self.migration, self.found_epoch)

    @property
    def epoch(self) -> int:
        """The epoch under which the source owns the machine; 0 if it does not."""
        return self.register.record.epoch if self.register.record else 0


def next_deadline_ns(state: SourceState) -> int | None:
    """When the state wants a ``Tick`` (CLOCK_MONOTONIC); None if never.

    A phase without one waits for an effect of ours, which has a deadline of its own, or, when the
    alarm has been raised, for proof. A tick at the deadline moves it, or ends the wait.
    """
    if state.phase in (*NEVER_STOPPED, Phase.COPYING):
        return min(state.deadline_ns, state.migration_deadline_ns)
    if state.phase is Phase.PAUSING and state.abort_reason is AbortReason.NONE:
        return min(state.deadline_ns, state.migration_deadline_ns)
    if state.phase in (Phase.STAGING, Phase.COMMITTED):
        return state.deadline_ns
    if state.phase in (Phase.AWAITING_QUARANTINE, Phase.YIELDED) and not state.alarmed:
        return state.deadline_ns
    return None
