"""The destination's part of a migration: is what it staged whole, and the taking of the ownership.

Theory of operation. Before ``STAGED`` there is no whole image here: any trouble ends in discarding
it; but once the source has said that all is sent, only its word that it runs is a reason, for this
may become the only good copy. What the VMM has loaded then was verified: if the service dies before
it has journaled ``STAGED``, its next life does; so an image that is refused there is promised first
not to be run. In ``STAGED`` it waits for GO, as long as it takes; without it, it
claims only with proof that the source's host is fenced. After GO it journals, and writes D into the
register by compare-and-set: the one append inside the stun. It opens the gate only when the
register names it. If another value stands, the image is quarantined: kept, not run, until the
source says that it runs. Where nothing can be proven it holds still (``DOUBTING``) and says so,
until an operator orders it to run.

Times are the host's CLOCK_MONOTONIC in nanoseconds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from .. import register as reg
from ..events import migration as ev
from . import destination_deciding as deciding
from . import destination_endings as endings
from . import destination_receiving as receiving
from . import effects as fx
from . import inputs as inp
from .destination_endings import Result
from .destination_state import (
    GRACE_NS,
    INCOMPLETE,
    TERMINAL,
    DestinationState,
    Phase,
    next_deadline_ns,
)
from .inputs import Input
from .table import Row, Table, ignored, row

__all__ = ["TABLE", "TERMINAL", "DestinationState", "Phase", "begin", "next_deadline_ns", "step"]


def begin(
    ordered: ev.PreparationOrdered,
    register: reg.RegisterView,
    *,
    migration: str,
    now_ns: int,
    disk_full: str = "",
) -> Result:
    """Begin to prepare; ``Prepared`` or ``OperationFailed`` comes next. But an order that comes so
    late that the machine has gone on since prepares nothing: it may be this host that it went to.
    Nor is anything prepared if ``disk_full`` says that there is no room for a long journal.
    """
    state = DestinationState(
        phase=Phase.PREPARING,
        migration=migration,
        machine=ordered.spec.name,
        host=ordered.destination,
        source=ordered.source,
        verify=ordered.verify,
        register=register,
        found_epoch=ordered.register_epoch,
        deadline_ns=now_ns + ordered.limits.deadline_ns + GRACE_NS,
    )
    if state.has_gone_on(register):
        late = inp.OperationFailed(message=f"too late: the register holds {register.record}")
        return receiving.cannot_prepare(state, late, now_ns)
    if disk_full:
        return receiving.cannot_prepare(state, inp.OperationFailed(message=disk_full), now_ns)
    return state, (fx.PrepareMachine(spec=ordered.spec, placements=ordered.placements),)


def step(state: DestinationState, given: Input, now_ns: int) -> Result:
    """One step. Raises as ``Table.step``."""
    return TABLE.step(state, given, now_ns)


def _rows() -> dict[tuple[StrEnum, type[Input]], Row[DestinationState]]:
    p = Phase
    rows: dict[tuple[StrEnum, type[Input]], Row[DestinationState]] = {
        (p.PREPARING, inp.Prepared): row(receiving.prepared, p.PREPARED),
        (p.PREPARING, inp.OperationFailed): row(receiving.cannot_prepare, p.DISCARDING),
        (p.PREPARED, inp.PeerHello): row(receiving.hello, p.POPULATING, p.DISCARDING),
        (p.POPULATING, inp.Populated): row(receiving.populated, p.RECEIVING),
        (p.RECEIVING, inp.RoundReceived): row(receiving.round_received, p.RECEIVING),
        (p.RECEIVING, inp.PeerStage): row(receiving.stage, p.LOADING),
        (p.RECEIVING, inp.ImageBad): row(receiving.give_up, p.DISCARDING),
        (p.LOADING, inp.ImageLoaded): row(receiving.loaded, p.STAGED),
        (p.LOADING, inp.ImageBad): row(receiving.refuse_loaded, p.DISCARDING),
        (p.LOADING, inp.PeerRuns): row(receiving.refuse_loaded, p.DISCARDING),
        (p.STAGED, inp.PeerGo): row(deciding.go, p.ACTIVATING),
        (p.STAGED, inp.PeerAbort): row(deciding.hold_back, p.QUARANTINED),
        (p.STAGED, inp.PeerFenced): row(deciding.claim_fenced, p.ACTIVATING, p.DOUBTING),
        (p.STAGED, inp.PeerRuns): row(endings.source_runs, p.DISCARDING),
        (p.STAGED, inp.RegisterRead): row(deciding.read_fate, p.STAGED, p.OPENING, p.QUARANTINED),
        (p.STAGED, inp.Tick): row(deciding.look_again, p.STAGED),
        (p.STAGED, inp.LinkLost): row(deciding.look_again, p.STAGED),
        (p.ACTIVATING, inp.CasSettled): row(
            deciding.claim_settled,
            *(p.OPENING, p.ACTIVATING, p.QUARANTINED, p.DISCARDING, p.DOUBTING),
        ),
        (p.ACTIVATING, inp.CasUnclear): row(deciding.claim_again, p.ACTIVATING),
        (p.ACTIVATING, inp.PeerFenced): row(deciding.note_fenced, p.ACTIVATING),
        (p.ACTIVATING, inp.OperationFailed): row(deciding.cannot_claim, p.QUARANTINED, p.FAILED),
        (p.ACTIVATING, inp.PeerRuns): row(endings.source_runs, p.DISCARDING),
        (p.OPENING, inp.GateOpened): row(deciding.opened, p.ACTIVE),
        (p.OPENING, inp.OperationFailed): row(deciding.open_failed, p.FAILED),
        (p.QUARANTINED, inp.PeerAbort): row(deciding.answer_again, p.QUARANTINED),
        (p.QUARANTINED, inp.PeerRuns): row(endings.source_runs, p.DISCARDING),
        (p.QUARANTINED, inp.Tick): row(deciding.alarm, p.QUARANTINED),
        (p.QUARANTINED, inp.RunOrdered): row(
            deciding.run_on_order, p.QUARANTINED, p.ACTIVATING, p.OPENING, p.DISCARDING
        ),
        (p.QUARANTINED, inp.PeerFenced): row(deciding.claim_fenced, p.ACTIVATING, p.DOUBTING),
        (p.DISCARDING, inp.MemoryFreed): row(endings.discarded, p.DISCARDED),
        (p.DISCARDING, inp.MemoryLeft): row(endings.not_discarded, p.DISCARDED),
        (p.DOUBTING, inp.PeerRuns): row(endings.source_runs, p.DISCARDING),
        (p.DOUBTING, inp.PeerFenced): row(deciding.note_fenced, p.DOUBTING),
        (p.DOUBTING, inp.RunOrdered): row(
            deciding.run_on_order, p.DOUBTING, p.ACTIVATING, p.OPENING, p.DISCARDING
        ),
    }
    troubles: tuple[type[Input], ...] = (
        inp.LinkLost,
        inp.AbortWanted,
        inp.Tick,
        inp.PeerAbort,
        inp.PeerRuns,
        inp.OperationFailed,
    )
    for phase in INCOMPLETE:
        for given in troubles:
            if phase is not p.LOADING:
                rows.setdefault((phase, given), row(receiving.give_up, phase, p.DISCARDING))
    for given, phases in _LATE.items():
        for late in phases:
            rows.setdefault((late, given), ignored(late))
    return rows


_ENDING: Final = {Phase.DISCARDING, Phase.DISCARDED}
_AFTER_A_WRITE: Final = {Phase.OPENING, Phase.QUARANTINED, Phase.DOUBTING, *_ENDING}
_LATE: Final[dict[type[Input], set[Phase]]] = {
    inp.Tick: set(Phase),
    inp.LinkLost: set(Phase),
    inp.AbortWanted: set(Phase),
    inp.RegisterRead: set(Phase),
    inp.PeerAbort: set(Phase),
    inp.PeerRuns: {Phase.OPENING, *_ENDING},
    inp.PeerFenced: set(Phase),
    inp.PeerHello: _ENDING,
    inp.PeerStage: _ENDING,
    inp.Prepared: _ENDING,
    inp.Populated: _ENDING,
    inp.RoundReceived: {Phase.LOADING, Phase.POPULATING, *_ENDING},
    inp.ImageLoaded: _ENDING,
    inp.ImageBad: set(Phase),
    inp.OperationFailed: set(Phase),
    inp.PeerGo: set(Phase) - set(INCOMPLETE),
    inp.RunOrdered: set(Phase),
    inp.CasSettled: _AFTER_A_WRITE,
    inp.CasUnclear: _AFTER_A_WRITE,
}
"""What may come late or twice, and where it then changes nothing."""

TABLE: Final = Table("destination", _rows())
