"""The source's part of a migration: when to stop pre-copying, and the switchover's left column.

Theory of operation. Until ``INTENDING`` the machine has never stopped: any trouble ends in
``ABANDONED`` at once. From ``PAUSING`` to ``COPYING`` the destination cannot have a whole image, so
the source just resumes. In ``STAGING`` it may have one, but has no GO: the source takes the machine
back in the register (S2) and resumes. After GO (``COMMITTED``) no timeout makes it run: it writes
B, and needs the destination's word that the image is quarantined (or proof that its host is fenced)
before it writes S2. If the register names the destination, it never runs the machine again, but
keeps the bytes (``YIELDED``) until the destination says that it runs. Where nothing can be proven
it holds still (``DOUBTING``) and says so. An operator's order ends a doubt about which image is
current; also then it runs only with proof that the destination does not.

Times are the host's CLOCK_MONOTONIC in nanoseconds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from .. import register as reg
from ..events import migration as ev
from ..events.migration import AbortReason
from . import effects as fx
from . import inputs as inp
from . import source_copying as copying
from . import source_deciding as deciding
from . import source_endings as endings
from .inputs import Input
from .source_endings import Result
from .source_state import NEVER_STOPPED, Phase, SourceState
from .table import Row, Table, ignored, row


def begin(
    started: ev.MigrationStarted,
    machine: str,
    register: reg.RegisterView,
    *,
    migration: str,
    now_ns: int,
    disk_full: str = "",
) -> Result:
    """Begin a migration that the coordinator started. ``register`` is what the host last wrote or
    read; if it does not name this host, nothing is begun and the migration is abandoned at once; as
    it is if ``disk_full`` says that there is no room for a long journal.

    To connect has no deadline of its own: the destination populates its memory meanwhile, which
    takes as long as the machine is large; whether it still lives, the link knows.
    """
    deadline_ns = now_ns + started.limits.deadline_ns
    state = SourceState(
        phase=Phase.CONNECTING,
        migration=migration,
        machine=machine,
        host=started.source,
        destination=started.destination,
        limits=started.limits,
        verify=started.verify,
        register=register,
        found_epoch=started.register_epoch,
        deadline_ns=deadline_ns,
        migration_deadline_ns=deadline_ns,
    )
    if not reg.may_run(register.record, started.source):
        return endings.abandon(
            state, AbortReason.SUPERSEDED, "the register does not name this host"
        )
    if state.epoch != started.register_epoch:
        return endings.abandon(state, AbortReason.SUPERSEDED, "the register's epoch has changed")
    if disk_full:
        return endings.abandon(state, AbortReason.DISK_FULL, disk_full)
    opening = fx.OpenLink(address=started.address, port=started.port, token=started.token)
    return state, (opening,)


def step(state: SourceState, given: Input, now_ns: int) -> Result:
    """One step. Raises as ``Table.step``."""
    return TABLE.step(state, given, now_ns)


def _rows() -> dict[tuple[StrEnum, type[Input]], Row[SourceState]]:
    p = Phase
    rows: dict[tuple[StrEnum, type[Input]], Row[SourceState]] = {
        (p.CONNECTING, inp.LinkUp): row(copying.link_up, p.PRECOPYING, p.INTENDING),
        (p.PRECOPYING, inp.RoundDone): row(
            copying.round_done, p.PRECOPYING, p.INTENDING, p.ABANDONED
        ),
        (p.INTENDING, inp.Appended): row(copying.intent_acknowledged, p.PAUSING),
        (p.INTENDING, inp.AppendFailed): row(copying.intent_failed, p.ABANDONED),
        (p.PAUSING, inp.Paused): row(copying.paused, p.COPYING, p.RESUMING),
        (p.PAUSING, inp.OperationFailed): row(copying.pause_failed, p.RESUMING),
        (p.COPYING, inp.FinalSent): row(copying.final_sent, p.STAGING),
        (p.STAGING, inp.PeerStaged): row(deciding.staged, p.COMMITTED),
        (p.STAGING, inp.PeerRefused): row(deciding.refused_to_stage, p.RESUMING),
        (p.STAGING, inp.PeerActive): row(deciding.active, p.RELEASING),
        (p.COMMITTED, inp.PeerActive): row(deciding.active, p.RELEASING, p.DOUBTING),
        (p.TAKING_BACK, inp.PeerActive): row(deciding.active, p.RELEASING),
        (p.TAKING_BACK, inp.CasSettled): row(
            deciding.taken_back, p.RESUMING, p.YIELDED, p.DOUBTING, p.RELEASING
        ),
        (p.TAKING_BACK, inp.CasUnclear): row(deciding.try_again, p.TAKING_BACK),
        (p.ABORTING, inp.CasSettled): row(
            deciding.abort_settled,
            *(p.AWAITING_QUARANTINE, p.RECLAIMING, p.YIELDED, p.DOUBTING, p.RELEASING),
        ),
        (p.ABORTING, inp.CasUnclear): row(deciding.try_again, p.ABORTING),
        (p.ABORTING, inp.PeerActive): row(deciding.active, p.RELEASING, p.DOUBTING),
        (p.AWAITING_QUARANTINE, inp.PeerActive): row(deciding.active_after_all, p.RELEASING),
        (p.AWAITING_QUARANTINE, inp.PeerQuarantined): row(deciding.reclaim, p.RECLAIMING),
        (p.AWAITING_QUARANTINE, inp.PeerFenced): row(deciding.reclaim, p.RECLAIMING),
        (p.AWAITING_QUARANTINE, inp.Tick): row(deciding.alarm, p.AWAITING_QUARANTINE),
        (p.RECLAIMING, inp.CasSettled): row(
            deciding.taken_back, p.RESUMING, p.YIELDED, p.DOUBTING, p.RELEASING
        ),
        (p.RECLAIMING, inp.CasUnclear): row(deciding.try_again, p.RECLAIMING),
        (p.RECLAIMING, inp.PeerActive): row(deciding.active_before, p.DOUBTING),
        (p.RESUMING, inp.Resumed): row(endings.resumed, p.ABANDONED),
        (p.RESUMING, inp.OperationFailed): row(endings.resume_failed, p.ABANDONED, p.DOUBTING),
        (p.RELEASING, inp.MemoryFreed): row(deciding.freed, p.RELEASED),
        (p.RELEASING, inp.MemoryLeft): row(deciding.not_freed, p.RELEASED),
        (p.YIELDED, inp.PeerActive): row(deciding.active, p.RELEASING, p.DOUBTING),
        (p.YIELDED, inp.Tick): row(deciding.alarm, p.YIELDED),
        (p.DOUBTING, inp.PeerActive): row(deciding.active, p.RELEASING, p.DOUBTING),
    }
    _add_troubles(rows)
    _add_late(rows)
    return rows


def _add_troubles(rows: dict[tuple[StrEnum, type[Input]], Row[SourceState]]) -> None:
    """What may go wrong in several phases alike."""
    p = Phase
    trouble: tuple[type[Input], ...] = (inp.LinkLost, inp.AbortWanted, inp.Tick)
    before_stage: tuple[type[Input], ...] = (*trouble, inp.PeerRefused)
    for phase in NEVER_STOPPED:
        rows[phase, inp.OperationFailed] = row(copying.give_up_running, p.ABANDONED)
        rows[phase, inp.JournalFull] = row(copying.give_up_running, p.ABANDONED)
        rows[phase, inp.BandwidthOrdered] = row(copying.set_bandwidth, phase)
        for given in before_stage:
            rows[phase, given] = row(copying.give_up_running, phase, p.ABANDONED)
    for given in before_stage:
        rows[p.PAUSING, given] = row(copying.abort_when_paused, p.PAUSING)
        rows[p.COPYING, given] = row(copying.resume_unless_in_time, p.COPYING, p.RESUMING)
    rows[p.COPYING, inp.OperationFailed] = row(copying.resume_unless_in_time, p.RESUMING)
    for given in trouble:
        rows[p.STAGING, given] = row(deciding.take_back, p.STAGING, p.TAKING_BACK)
    doubts: tuple[type[Input], ...] = (
        inp.LinkLost,
        inp.Tick,
        inp.PeerQuarantined,
        inp.PeerRefused,
        inp.OperationFailed,
    )
    for given in doubts:
        rows[p.COMMITTED, given] = row(deciding.intend_abort, p.COMMITTED, p.ABORTING)
    for phase in (p.COMMITTED, p.ABORTING):
        rows[phase, inp.PeerFenced] = row(deciding.note, phase)
    for phase in (p.YIELDED, p.DOUBTING):
        rows[phase, inp.PeerFenced] = row(endings.is_lost, phase, p.ABANDONED)
    for phase in (p.ABORTING, p.YIELDED, p.DOUBTING):
        rows[phase, inp.PeerQuarantined] = row(deciding.note, phase)
    for phase in (p.YIELDED, p.DOUBTING):
        rows[phase, inp.RunOrdered] = row(
            deciding.run_on_order, phase, p.RECLAIMING, p.RESUMING, p.RELEASING, p.ABANDONED
        )
    for phase in (p.COMMITTED, p.AWAITING_QUARANTINE, p.YIELDED, p.DOUBTING):
        rows[phase, inp.RegisterRead] = row(
            deciding.look, phase, p.YIELDED, p.RELEASING, p.ABANDONED
        )


_AFTER_A_WRITE: Final = {
    Phase.RESUMING,
    Phase.YIELDED,
    Phase.DOUBTING,
    Phase.RELEASING,
    Phase.RELEASED,
}
_LATE: Final[dict[type[Input], set[Phase]]] = {
    inp.Tick: set(Phase),
    inp.LinkLost: set(Phase),
    inp.AbortWanted: set(Phase),
    inp.RegisterRead: set(Phase),
    inp.RoundDone: {Phase.ABANDONED},
    inp.LinkUp: {Phase.ABANDONED},
    inp.Appended: {Phase.ABANDONED},
    inp.AppendFailed: {Phase.ABANDONED},
    inp.OperationFailed: set(Phase),
    inp.JournalFull: {Phase.ABANDONED},
    inp.FinalSent: {Phase.RESUMING, Phase.ABANDONED},
    inp.PeerStaged: set(Phase) - {*NEVER_STOPPED, Phase.PAUSING, Phase.COPYING},
    inp.PeerRefused: set(Phase),
    inp.PeerQuarantined: set(Phase) - {Phase.CONNECTING, Phase.PRECOPYING, Phase.INTENDING},
    inp.PeerActive: {Phase.RESUMING, Phase.RELEASING, Phase.RELEASED},
    inp.CasSettled: _AFTER_A_WRITE,
    inp.CasUnclear: _AFTER_A_WRITE,
    inp.PeerFenced: set(Phase),
    inp.RunOrdered: set(Phase),
    inp.BandwidthOrdered: set(Phase),
}
"""What may come late or twice, and where it then changes nothing."""


def _add_late(rows: dict[tuple[StrEnum, type[Input]], Row[SourceState]]) -> None:
    for given, phases in _LATE.items():
        for phase in phases:
            rows.setdefault((phase, given), ignored(phase))


TABLE: Final = Table("source", _rows())
