"""After a restart: the machine may have gone on, past a migration that a journal still holds. Pure.

A journal outlives its migration if the service died before the log had every fact. By the time the
service is back, other migrations may have moved the machine. What the register holds then is none
of this migration's business: nothing may be claimed, taken back or run on the strength of a journal
that is older than the register.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from enum import Enum
from typing import NamedTuple

import msgspec

from ..events import migration as ev
from ..events.machine import LeftoverKind
from ..events.migration import AbortReason
from ..register import OWNED, RegisterRecord, RegisterValue, has_gone_on
from . import destination, source_state
from . import effects as fx
from .destination import DestinationState
from .effects import Durability, Effect
from .source_endings import STOPPED, abandon
from .source_state import SourceState

Effects = tuple[Effect, ...]
_replace = msgspec.structs.replace


class Leftover(NamedTuple):
    """A VMM on a host, held by no migration there that has not ended."""

    kind: LeftoverKind
    epoch: int
    """In which its image was current; 0 if that is not known."""
    migration: str = ""
    """That brought it, if it never ran here; empty if that is not known."""
    was_frozen: bool = False
    """It ran here in that epoch while the machine was another's: what it did since is nowhere else,
    and only an operator can say that nobody wants it.
    """


class Fate(Enum):
    """What is to become of a leftover."""

    KEEP = 0
    COLLECT = 1
    FREEZE = 2


def fate_of(
    left: Leftover, record: RegisterRecord | None, host: str, facts: AbstractSet[str]
) -> Fate:
    """What is to become of ``left`` on ``host``. Whatever is not known keeps it.

    ``facts``: the types of the events in the log of the migration that brought it; of what ran
    here, of the one that ``record`` names.
    """
    if record is None or record.owner == host:
        return Fate.KEEP
    if record.value is not RegisterValue.LOST and record.value not in OWNED:
        return Fate.KEEP
    if left.kind is LeftoverKind.EMPTY:
        return Fate.COLLECT
    if left.kind is LeftoverKind.STAGED:
        return Fate.COLLECT if _is_image_over(left, record, facts) else Fate.KEEP
    if not 0 < left.epoch < record.epoch or not _has_run(left, record, facts):
        return Fate.KEEP
    if left.kind is LeftoverKind.RUNNING:
        return Fate.FREEZE
    return Fate.KEEP if left.was_frozen else Fate.COLLECT


def _is_image_over(left: Leftover, record: RegisterRecord, facts: AbstractSet[str]) -> bool:
    """Whether the machine is known to have run, or to have been discarded here, since the stun."""
    if not left.migration:
        return False
    told = {ev.MigrationAbandoned.TYPE, ev.ImageDiscarded.TYPE}
    return bool(told & facts) or has_gone_on(record, left.migration, left.epoch)


def _has_run(left: Leftover, record: RegisterRecord, facts: AbstractSet[str]) -> bool:
    """Whether the machine is known to have run elsewhere since it was stunned here, or was given up
    for lost.
    """
    if record.value in (RegisterValue.STARTED, RegisterValue.LOST) or record.epoch > left.epoch + 1:
        return True
    return ev.MachineActivated.TYPE in facts


def source_after(begun: SourceState, facts: AbstractSet[str]) -> tuple[SourceState, Effects]:
    """End a source's part. A machine that was stunned left: it could not have gone on otherwise;
    one that was not has been stopped, and started again.
    """
    if ev.MigrationAbandoned.TYPE in facts:
        phase = source_state.Phase.ABANDONED
        return _replace(begun, phase=phase), (fx.Finish(reason=AbortReason.SERVICE_RESTARTED),)
    if ev.MachineStunned.TYPE not in facts:
        return abandon(begun, AbortReason.SUPERSEDED, STOPPED)
    releasing = _replace(begun, phase=source_state.Phase.RELEASING)
    if ev.MachineReleased.TYPE in facts:
        return releasing, (fx.FreeMemory(),)
    told = fx.Append(event=ev.MachineReleased(), durability=Durability.JOURNALED)
    return releasing, (told, fx.FreeMemory())


def destination_after(
    begun: DestinationState, facts: AbstractSet[str], *, image_left: bool
) -> tuple[DestinationState, Effects]:
    """End a destination's part. ``image_left``: an image that never ran is on this host, and no
    later migration brought it: it is stale.
    """
    if image_left:
        stale = _replace(
            begun,
            phase=destination.Phase.DISCARDING,
            abort_reason=AbortReason.SUPERSEDED,
            abort_message="the machine has gone on since",
        )
        return stale, (fx.FreeMemory(),)
    was_active = ev.ActivationStarted.TYPE in facts and ev.ImageDiscarded.TYPE not in facts
    phase = destination.Phase.ACTIVE if was_active else destination.Phase.DISCARDED
    return _replace(begun, phase=phase), (fx.Finish(reason=AbortReason.NONE),)
