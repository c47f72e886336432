"""What the log says, folded for people and programs: migrations and machines. Pure.

A fold takes one event at a time, in the stream's order, and never fails on an event that it does
not know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from .clock_offset import ClockOffset
from .events import Envelope, Event, Recorded
from .events import bandwidth as bev
from .events import machine as mev
from .events import migration as ev
from .events.migration import AbortReason, Outcome
from .machine import MachineSpec

_replace: Final = msgspec.structs.replace

STUN_PARTS: Final = (
    *("freeze", "scan", "digest", "copy", "receive"),
    *("load", "staged", "go", "activate", "resume"),
)
"""What a stun is taken apart into, in the order in which it happens."""
BETWEEN_HOSTS: Final = ("receive", "staged", "go")
"""Those that begin on one host and end on the other."""


class StunMarks(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Instants of one stun, in ns of CLOCK_MONOTONIC; 0 if not (yet) known.

    Those of the source and those of the destination compare if both hosts have one boot id, and, as
    ``clock`` says, if the offset of their clocks was measured.
    """

    stopped_ns: int = 0
    frozen_ns: int = 0
    scan_ns: int = 0
    digest_ns: int = 0
    sent_ns: int = 0
    received_ns: int = 0
    staged_ns: int = 0
    staged_heard_ns: int = 0
    go_heard_ns: int = 0
    owned_ns: int = 0
    first_step_ns: int = 0
    source_boot: str = ""
    destination_boot: str = ""
    clock_offset_ns: int | None = None
    """As in ``FinalCopySent``."""
    clock_error_ns: int = 0

    def clock(self) -> ClockOffset | None:
        """How far the destination's clock is ahead of the source's, and within what error; None if
        nobody knows. What was measured before the stun is narrowed by the stun's own messages: each
        was heard after it was said.
        """
        if self.source_boot == self.destination_boot:
            return ClockOffset(offset_ns=0, error_ns=0)
        if self.clock_offset_ns is None:
            return None
        measured = ClockOffset(offset_ns=self.clock_offset_ns, error_ns=self.clock_error_ns)
        staged = self.staged_ns and self.staged_heard_ns
        there = ((self.sent_ns, self.received_ns), (self.staged_heard_ns, self.go_heard_ns))
        return measured.narrowed(
            self.staged_ns - self.staged_heard_ns if staged else None,
            min((heard - said for said, heard in there if said and heard), default=None),
        )

    def stun_ns(self) -> int | None:
        """From the last step on the source to the first on the destination; None if unknown."""
        clock = self.clock()
        if not self.stopped_ns or not self.first_step_ns or clock is None:
            return None
        return self.first_step_ns - clock.offset_ns - self.stopped_ns

    def error_ns(self) -> int:
        """What the stun and each of ``BETWEEN_HOSTS`` may be off by; 0 on one clock."""
        clock = self.clock()
        return 0 if clock is None else clock.error_ns

    def into_ns(self, boot: str, monotonic_ns: int) -> int | None:
        """How long after the machine stopped that was, by the clock of either host; None if it
        never stopped, or it cannot be known.
        """
        if not self.stopped_ns:
            return None
        if boot == self.source_boot:
            return monotonic_ns - self.stopped_ns
        clock = self.clock()
        if boot != self.destination_boot or clock is None:
            return None
        return monotonic_ns - clock.offset_ns - self.stopped_ns

    def components_ns(self) -> dict[str, int]:
        """The stun taken apart, in the order in which it happens; the parts add up to the stun.

        Empty unless each of its instants is known, and comes after the one before: a destination
        that is ordered to run the machine, say, has heard no GO.
        """
        parts = self.parts_ns()
        return parts if self.stun_ns() is not None and tuple(parts) == STUN_PARTS else {}

    def parts_ns(self) -> dict[str, int]:
        """Those parts of which begin and end are known, in that order: also of a stun that was
        called off. What would be less than nothing is not known.
        """
        clock = self.clock()
        ahead_ns = 0 if clock is None else clock.offset_ns
        searched_ns = self.frozen_ns and self.frozen_ns + self.scan_ns + self.digest_ns
        ends = (
            ("freeze", self.stopped_ns, self.frozen_ns, 0),
            ("copy", searched_ns, self.sent_ns, 0),
            ("receive", self.sent_ns, self.received_ns, -ahead_ns),
            ("load", self.received_ns, self.staged_ns, 0),
            ("staged", self.staged_ns, self.staged_heard_ns, ahead_ns),
            ("go", self.staged_heard_ns, self.go_heard_ns, -ahead_ns),
            ("activate", self.go_heard_ns, self.owned_ns, 0),
            ("resume", self.owned_ns, self.first_step_ns, 0),
        )
        known = {part: end - begin + by_ns for part, begin, end, by_ns in ends if begin and end}
        if self.sent_ns:
            known |= {"scan": self.scan_ns, "digest": self.digest_ns}
        untold = BETWEEN_HOSTS if clock is None else ()
        return {
            part: known[part]
            for part in STUN_PARTS
            if part not in untold and known.get(part, -1) >= 0
        }


class MigrationSummary(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One migration as its log tells it."""

    id: str
    machine: str = ""
    source: str = ""
    destination: str = ""
    outcome: Outcome = Outcome.RUNNING
    reason: AbortReason = AbortReason.NONE
    message: str = ""
    requested_wall_ns: int = 0
    ended_wall_ns: int = 0
    limits: ev.Limits = ev.Limits()
    """As they are now: the bandwidth may have been changed since."""
    bandwidth_changed_by: str = ""
    """Who asked for that last; nobody, if it is as it was requested."""
    verify: ev.Verify = ev.Verify.OFF
    rounds: tuple[ev.RoundCompleted, ...] = ()
    last_round_ns: int = 0
    """When the last round had ended, CLOCK_MONOTONIC of the source."""
    final_pages: int = 0
    final_bytes: int = 0
    checkpoint_bytes: int = 0
    resident_bytes: int = 0
    connections: int = 0
    populate_ns: int = 0
    digests: dict[str, bytes] = {}
    marks: StunMarks = StunMarks()
    stun_intended: bool = False
    """Whether the source was about to stun the machine: from then on it may stand still."""
    aborted_stun_ns: int = 0
    """As the source measured it; 0 if it has not: a service that was restarted cannot."""
    abandoned: bool = False
    """Whether the source has said that the machine stays there."""
    abandoned_for: AbortReason = AbortReason.NONE
    """Why, as the source said; what the coordinator says of it at the end is ``reason``."""
    lost_epoch: int = 0
    """In which the register says that the machine is lost; 0 if it does not."""
    last_type: str = ""
    events: int = 0

    @property
    def sent_bytes(self) -> int:
        """Bytes of pages sent, pre-copy and stun together."""
        return sum(done.figures.sent_bytes for done in self.rounds) + self.final_bytes

    @property
    def content_bytes(self) -> int:
        """Bytes that did not travel, because the destination held them already."""
        return sum(done.figures.content_bytes for done in self.rounds)

    @property
    def compression_bytes(self) -> int:
        """Of those sent, what compression left out."""
        return sum(done.figures.compression_bytes for done in self.rounds)

    @property
    def stun_ns(self) -> int | None:
        """How long the machine stood still; None if it never did or it cannot be known."""
        return self.marks.stun_ns() or (self.aborted_stun_ns or None)

    @property
    def stun_error_ns(self) -> int:
        """What that may be off by; 0 where one clock measured it."""
        return 0 if self.marks.stun_ns() is None else self.marks.error_ns()

    @property
    def duration_ns(self) -> int:
        """From the request to the end, by the coordinator's wall clock; 0 while it runs."""
        return max(self.ended_wall_ns - self.requested_wall_ns, 0) if self.ended_wall_ns else 0


def fold(summary: MigrationSummary, recorded: Recorded) -> MigrationSummary:
    """Return the summary after one more event of its migration."""
    envelope, event = recorded.envelope, recorded.event
    told = _TOLD_BY.get(type(event))
    if told is not None:
        summary = told(summary, envelope, event)
    return _replace(
        summary,
        machine=summary.machine or envelope.machine,
        events=summary.events + 1,
        last_type=envelope.type,
    )


def _requested(
    summary: MigrationSummary, envelope: Envelope, event: ev.MigrationRequested
) -> MigrationSummary:
    return _replace(
        summary,
        machine=event.machine,
        destination=event.destination,
        limits=event.limits,
        verify=event.verify,
        requested_wall_ns=envelope.wall_ns,
    )


def _bandwidth(
    summary: MigrationSummary, _: Envelope, event: bev.BandwidthOrdered
) -> MigrationSummary:
    cap = event.bandwidth_bytes_per_second
    limits = _replace(summary.limits, bandwidth_bytes_per_second=cap)
    return _replace(summary, limits=limits, bandwidth_changed_by=event.requested_by)


def _begun(summary: MigrationSummary, _: Envelope, event: ev.PrecopyStarted) -> MigrationSummary:
    return _replace(
        summary,
        resident_bytes=event.resident_bytes,
        connections=event.connections,
        populate_ns=event.populate_ns,
    )


def _round(
    summary: MigrationSummary, envelope: Envelope, event: ev.RoundCompleted
) -> MigrationSummary:
    rounds = (*summary.rounds, event)
    return _replace(summary, rounds=rounds, last_round_ns=envelope.monotonic_ns)


def _doubted(summary: MigrationSummary, _: Envelope, event: ev.DoubtRaised) -> MigrationSummary:
    if summary.outcome is not Outcome.RUNNING:
        return summary
    return _replace(summary, outcome=Outcome.IN_DOUBT, message=event.message)


def _ended(
    summary: MigrationSummary, envelope: Envelope, event: ev.MigrationEnded
) -> MigrationSummary:
    return _replace(
        summary,
        outcome=event.outcome,
        reason=event.reason,
        message=event.message,
        ended_wall_ns=envelope.wall_ns,
        lost_epoch=event.lost_epoch,
    )


def _stunned(
    summary: MigrationSummary, envelope: Envelope, event: ev.MachineStunned
) -> MigrationSummary:
    marks = _replace(
        summary.marks,
        stopped_ns=event.stopped_ns,
        frozen_ns=envelope.monotonic_ns,
        source_boot=envelope.boot,
    )
    return _replace(summary, marks=marks, checkpoint_bytes=event.checkpoint_bytes)


def _final_copy(
    summary: MigrationSummary, _: Envelope, event: ev.FinalCopySent
) -> MigrationSummary:
    marks = _replace(
        summary.marks,
        scan_ns=event.scan_ns,
        digest_ns=event.digest_ns,
        sent_ns=event.sent_ns,
        clock_offset_ns=event.clock_offset_ns,
        clock_error_ns=event.clock_error_ns,
    )
    return _replace(summary, marks=marks, final_pages=event.pages, final_bytes=event.sent_bytes)


def _staged(
    summary: MigrationSummary, envelope: Envelope, event: ev.ImageStaged
) -> MigrationSummary:
    marks = _replace(
        summary.marks,
        received_ns=event.received_ns,
        staged_ns=event.staged_ns,
        destination_boot=envelope.boot,
    )
    return _replace(summary, marks=marks, digests=event.digests)


def _activated(
    summary: MigrationSummary, envelope: Envelope, event: ev.MachineActivated
) -> MigrationSummary:
    marks = _replace(
        summary.marks,
        owned_ns=event.owned_ns,
        first_step_ns=event.first_step_ns,
        destination_boot=envelope.boot,
    )
    return _replace(summary, marks=marks)


_Told = Callable[[MigrationSummary, Envelope, Any], MigrationSummary]
_TOLD_BY: Final[dict[type[Event], _Told]] = {
    ev.MigrationRequested: _requested,
    ev.PreparationOrdered: lambda summary, _, event: _replace(summary, source=event.source),
    ev.MigrationStarted: lambda summary, _, event: _replace(summary, limits=event.limits),
    bev.BandwidthOrdered: _bandwidth,
    ev.PrecopyStarted: _begun,
    ev.RoundCompleted: _round,
    ev.MigrationAbandoned: lambda summary, _, event: _replace(
        summary,
        aborted_stun_ns=event.stun_ns,
        abandoned=True,
        abandoned_for=event.reason,
    ),
    ev.DoubtRaised: _doubted,
    ev.MigrationEnded: _ended,
    ev.StunIntended: lambda summary, _, event: _replace(summary, stun_intended=True),
    ev.MachineStunned: _stunned,
    ev.FinalCopySent: _final_copy,
    ev.ImageStaged: _staged,
    ev.GoGiven: lambda summary, _, event: _replace(
        summary, marks=_replace(summary.marks, staged_heard_ns=event.staged_heard_ns)
    ),
    ev.ActivationStarted: lambda summary, _, event: _replace(
        summary, marks=_replace(summary.marks, go_heard_ns=event.go_heard_ns)
    ),
    ev.MachineActivated: _activated,
}
"""What a migration's events change of its summary."""


class MachineSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One machine as its log tells it. Where it runs is the register's to say, not this fold's."""

    name: str
    spec: MachineSpec | None = None
    started_wall_ns: int = 0
    register_epoch: int = 0
    """In which it was started."""
    stopped: bool = False
    paused: bool = False
    failure: str = ""
    failure_epoch: int = 0
    """In which it failed last; 0 if that is not known."""

    def failure_in(self, epoch: int) -> str:
        """Why the machine that is owned in ``epoch`` does not run; nothing if it is not known to
        have failed, or did so before.
        """
        return "" if 0 < self.failure_epoch < epoch else self.failure


def fold_machine(summary: MachineSummary, recorded: Recorded) -> MachineSummary:
    """Return the summary after one more event of the machine's life."""
    match recorded.event:
        case mev.MachineStarted(spec=spec, register_epoch=epoch):
            return MachineSummary(
                name=summary.name,
                spec=spec,
                started_wall_ns=recorded.envelope.wall_ns,
                register_epoch=epoch,
            )
        case mev.MachineStopped(register_epoch=epoch) if 0 < epoch < summary.register_epoch:
            return summary  # told late: it has been started again since
        case mev.MachineStopped():
            return _replace(summary, stopped=True)
        case mev.MachinePaused() | mev.MachineResumed():
            return _replace(summary, paused=isinstance(recorded.event, mev.MachinePaused))
        case mev.MachineFailed(message=message, register_epoch=epoch):
            return _replace(summary, failure=message, failure_epoch=epoch)
        case _:
            return summary
