"""Every event as one short sentence, for a reader who has not seen the code. Pure.

The writer of an event is named beside its sentence, and is what the sentence's verb belongs to:
``source@host-1  sent round 2: …``. An event of a type without a sentence is told by its fields.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from godwit_protocol.convergence import PREDICTED_STUN_NS_MAX, Decision
from godwit_protocol.estimation.admission import Admission
from godwit_protocol.events import Event, Recorded, UnknownEvent
from godwit_protocol.events import bandwidth as bev
from godwit_protocol.events import estimate as eev
from godwit_protocol.events import loss as lev
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events import reservation as rev
from godwit_protocol.events import signed as sev
from godwit_protocol.events.migration import AbortReason, Outcome
from godwit_protocol.pacing import format_bandwidth
from godwit_protocol.projections import MigrationSummary, fold
from godwit_protocol.quantities import format_duration_ns, format_size
from godwit_protocol.replay.signatures import KEY_SHOWN
from godwit_protocol.roles.source_state import Phase

from .figures import count, duration, rate, size, within

MIGRATIONS_FOLLOWED_MAX: Final = 1000
"""Migrations whose figures a narrator keeps; of more, the oldest's are told without."""

Teller = Callable[[Any], str]

NOT_KNOWN_TO_RUN: Final = frozenset({AbortReason.MACHINE_FAILED, AbortReason.SUPERSEDED})
"""Of migrations that ended so, the machine may be dead, lost, stopped, or somewhere else by now."""


def reason(value: str) -> str:
    """A reason or a code in words."""
    return value.replace("_", " ")


def sentence(event: Event, epoch: int = 0) -> str:
    """What the event says. ``epoch`` is its envelope's."""
    if isinstance(event, mev.MachineStarted | ev.MachineActivated) and epoch:
        return f"{_TELLERS[type(event)](event)} (epoch {epoch})"
    teller = _TELLERS.get(type(event))
    return teller(event) if teller is not None else generic(event)


def generic(event: Event) -> str:
    """The fields of an event that no sentence is known for."""
    if isinstance(event, UnknownEvent):
        fields = event.fields
    else:
        fields = {name: getattr(event, name) for name in event.__struct_fields__}
    told = ", ".join(f"{name} {_short(value)}" for name, value in fields.items())
    return told or "(nothing more is said)"


class Narrator:
    """Tells events one after the other, with a migration's own figures once they are known."""

    def __init__(self) -> None:
        self._summaries: dict[str, MigrationSummary] = {}

    def tell(self, recorded: Recorded) -> str:
        """The sentence for the next event, which begins with its type if that is unknown."""
        text = sentence(recorded.event, recorded.envelope.epoch)
        if isinstance(recorded.event, UnknownEvent):
            text = f"{reason(recorded.envelope.type)}: {text}"
        return text + self._figures(recorded)

    def _figures(self, recorded: Recorded) -> str:
        migration = recorded.envelope.migration
        if not migration:
            return ""
        before = self._summaries.pop(migration, MigrationSummary(id=migration))
        after = fold(before, recorded)
        # A host may flush the last events of the stun after the migration has ended.
        if not after.ended_wall_ns or after.stun_ns is None:
            self._summaries[migration] = after
            if len(self._summaries) > MIGRATIONS_FOLLOWED_MAX:
                self._summaries.pop(next(iter(self._summaries)))
        return _stood_still(before, after, recorded.event) + _totals(before, after)


def _stood_still(before: MigrationSummary, after: MigrationSummary, event: Event) -> str:
    if isinstance(event, ev.MigrationAbandoned) and event.reason not in NOT_KNOWN_TO_RUN:
        # Of a migration that was not seen from its beginning nobody can say that.
        never = after.requested_wall_ns and not may_have_stopped(after, event.reason)
        return ". It never stopped" if never and not event.stun_ns else ""
    if before.stun_ns is not None or after.marks.stun_ns() is None:
        return ""
    return f". It stood still for {duration(after.stun_ns or 0)}{within(after.stun_error_ns)}"


def may_have_stopped(summary: MigrationSummary, ended: AbortReason) -> bool:
    """Whether the machine may have stood still in a migration that ended so. Of a service that is
    killed between its intent and its word of the stun, the next one only resumes the machine.
    """
    unseen = summary.stun_intended and ended is AbortReason.SERVICE_RESTARTED
    return unseen or bool(summary.marks.stopped_ns)


def _totals(before: MigrationSummary, after: MigrationSummary) -> str:
    if before.ended_wall_ns or not after.ended_wall_ns or not after.rounds:
        return ""
    return f" ({count(len(after.rounds), 'round')}, {size(after.sent_bytes)} sent)"


def _short(value: object) -> str:
    if isinstance(value, bytes):
        value = value.hex()
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _by(who: str) -> str:
    return f"{who} asked" if who else "asked"


def _because(why: AbortReason, message: str = "") -> str:
    return f"{reason(why)} ({message})" if message else reason(why) or "no reason given"


def _vgpus(profiles: Sequence[str], framebuffers: Sequence[int]) -> str:
    pairs = zip(profiles, framebuffers, strict=False)
    told = ", ".join(f"{profile} ({size(framebuffer)})" for profile, framebuffer in pairs)
    return told or "no vGPU"


def _placements(placements: Sequence[rev.Placement]) -> str:
    return ", ".join(f"{item.profile} on GPU {item.gpu}" for item in placements) or "no vGPU"


def _requested(event: ev.MigrationRequested) -> str:
    limits = event.limits
    verify = {
        ev.Verify.OFF: "",
        ev.Verify.WIRE: ", what travels digested on both sides",
        ev.Verify.FULL: ", memory digested on both sides",
    }[event.verify]
    cap = limits.bandwidth_bytes_per_second
    capped = f", {_bandwidth(cap)}" if cap else ""
    return (
        f"{_by(event.requested_by)} to move machine {event.machine} to {event.destination}:"
        f" stun at most {format_duration_ns(limits.stun_limit_ns)},"
        f" all within {format_duration_ns(limits.deadline_ns)}{capped}{verify}"
    )


def _bandwidth(bytes_per_second: int) -> str:
    if bytes_per_second == 0:
        return "all of the link's bandwidth"
    return f"a bandwidth of at most {format_bandwidth(bytes_per_second)}"


def _preparation(event: ev.PreparationOrdered) -> str:
    memory = sum(region.size_bytes for region in event.spec.regions())
    return (
        f"told {event.destination} to make room for machine {event.spec.name}"
        f" from {event.source}: {size(memory)} of memory, {_placements(event.placements)}"
    )


def _round(event: ev.RoundCompleted) -> str:
    figures = event.figures
    told = (
        f"sent round {figures.round}: {count(figures.pages, 'page')} ({size(figures.sent_bytes)})"
        f" in {duration(figures.duration_ns)}, by a link of"
        f" {rate(event.bandwidth_bytes_per_second)}"
        f"{_left_out(figures)}; {size(figures.remaining_bytes)} written meanwhile,"
        f" a stun now would take {duration(event.predicted_stun_ns)}"
    )
    if figures.cap_bytes_per_second:
        told = f"{told} (held to {format_bandwidth(figures.cap_bytes_per_second)})"
    slow = event.slow_percent
    slowed = f" with {slow} % of its time taken from the guest" if slow else ""
    return f"{told}. {_DECISIONS[event.decision]}{slowed}, because: {reason(event.reason)}"


def _left_out(figures: ev.RoundFigures) -> str:
    parts = (
        (figures.hole_bytes, "never written and not looked at"),
        (figures.zero_bytes, "of zeros only named"),
        (figures.rewritten_bytes, "left out that held what was sent before"),
        (figures.content_bytes, "only named that the destination held already"),
        (figures.compression_bytes, f"saved by {figures.compression}"),
        (figures.waiting_bytes, "left for the stun"),
    )
    return "".join(f", {size(saved)} {how}" for saved, how in parts if saved)


_DECISIONS: Final = {
    Decision.ANOTHER_ROUND: "Another round",
    Decision.STUN: "Stun now",
    Decision.GIVE_UP: "Give up",
}


def _intended(event: ev.StunIntended) -> str:
    told = f"is about to stun the machine: {size(event.remaining_bytes)} left"
    if event.predicted_stun_ns >= PREDICTED_STUN_NS_MAX:
        return f"{told}, and how fast the link is not known"
    return f"{told}, predicted stun {duration(event.predicted_stun_ns)}"


def _final(event: ev.FinalCopySent) -> str:
    digest = f", digesting {duration(event.digest_ns)}" if event.digest_ns else ""
    return (
        f"sent the last {count(event.pages, 'page')} ({size(event.sent_bytes)});"
        f" finding them took {duration(event.scan_ns)}{digest}"
    )


def _staged(event: ev.ImageStaged) -> str:
    verified = {
        ev.Verify.OFF: "its pages counted, not compared",
        ev.Verify.WIRE: "what was sent and what was applied compared by digest",
        ev.Verify.FULL: "every byte compared by digest",
    }[event.verified]
    if not event.staged_ns:
        return "found the whole machine loaded when its service was started again, not running"
    return (
        f"has the whole machine, not running: {size(event.received_bytes)} in the last round;"
        f" {verified}; loading took {duration(event.staged_ns - event.received_ns)}"
    )


def _decided(event: ev.StartDecided) -> str:
    if event.start:
        return "decided that the migration starts"
    why = _because(event.reason, event.message)
    return f"decided that the migration does not start, because: {why}"


def _estimated(event: eev.EstimateMade) -> str:
    return f"{_ADMISSIONS[event.admission]}: {event.message}"


_ADMISSIONS: Final = {
    Admission.ADMITTED: "expects the stun to keep its limit",
    Admission.WARNED: "warns that the stun may be over its limit",
    Admission.REFUSED: "expects the stun to be over its limit",
    Admission.NOT_ESTIMATED: "cannot say how long the stun will be",
}


def _compared(event: eev.EstimateCompared) -> str:
    expected = event.estimate.stun_ns
    kept = "kept" if event.within else "exceeded"
    return (
        f"compared: the stun took {duration(event.stun_ns)}, estimated at"
        f" {duration(expected.median)}; it {kept} its bound of {duration(expected.bound)}"
    )


def _ended(event: ev.MigrationEnded) -> str:
    told = f"the migration ended: {reason(event.outcome)}"
    if event.outcome is not Outcome.COMPLETED:
        return f"{told}, because: {_because(event.reason, event.message)}"
    return f"{told}, {event.message}" if event.message else told


def _run_ordered(event: ev.RunOrdered) -> str:
    vouched = ", vouching that the other host is powered off" if event.other_is_off else ""
    return f"{_by(event.requested_by)} to run the machine on {event.target}{vouched}"


def _fenced(event: ev.HostFenced) -> str:
    if event.program:
        said = f"{event.program} said {event.answer!r}"
    else:
        said = f"{event.vouched_by} vouches for it"
    return f"has proof that {event.target} is powered off: {said}"


def _signed(event: sev.LaneSigned) -> str:
    order = f", and the order of all {event.seen_events} events before" if event.seen_events else ""
    key = event.public_key.hex()[:KEY_SHOWN]
    return f"signed all that it has written of it{order}, with key {key}"


def _abandoned(event: ev.MigrationAbandoned) -> str:
    because = f"Because: {_because(event.reason, event.message)}"
    if event.reason in NOT_KNOWN_TO_RUN:
        return f"has ended its part. {because}"
    stood = f" after {duration(event.stun_ns)} of stun" if event.stun_ns else ""
    return f"keeps the machine: it runs here{stood}. {because}"


def _start_requested(event: mev.MachineStartRequested) -> str:
    spec = event.spec
    vgpus = _vgpus([v.profile for v in spec.vgpus], [v.framebuffer_bytes for v in spec.vgpus])
    return (
        f"{_by(event.requested_by)} to start machine {spec.name}: guest {spec.guest},"
        f" {format_size(spec.ram_bytes)} of RAM, {vgpus}"
    )


def _announced(event: mev.HostAnnounced) -> str:
    gpus = ", ".join(f"{gpu.model}{' (SIMULATED)' if gpu.simulated else ''}" for gpu in event.gpus)
    missing = f"; missing: {'; '.join(event.missing)}" if event.missing else ""
    return (
        f"is up with {size(event.memory_bytes)} of memory, {gpus or 'no GPU'},"
        f" hypervisors: {', '.join(event.hypervisors) or 'none'}{missing}"
    )


_DOUBTS: Final = {
    f"no answer in phase {Phase.AWAITING_QUARANTINE}": (
        " (the destination has not promised that it will not run it)"
    ),
    f"no answer in phase {Phase.YIELDED}": (
        " (the register names the destination, which has not said that it runs it)"
    ),
}
_TELLERS: Final[dict[type[Event], Teller]] = {
    ev.MigrationRequested: _requested,
    ev.CancelRequested: lambda e: f"{_by(e.requested_by)} to cancel the migration",
    bev.BandwidthRequested: lambda e: (
        f"{_by(e.requested_by)} for {_bandwidth(e.bandwidth_bytes_per_second)}"
    ),
    bev.BandwidthOrdered: lambda e: (
        f"ordered {_bandwidth(e.bandwidth_bytes_per_second)} until the stun"
        f"{f', for {e.requested_by}' if e.requested_by else ''}"
    ),
    rev.ReservationRequested: lambda e: (
        f"wants capacity on {e.target} for machine {e.machine}:"
        f" {_vgpus(e.profiles, e.framebuffer_bytes)}"
    ),
    rev.ReservationGranted: lambda e: f"holds capacity on {e.target}: {_placements(e.placements)}",
    rev.ReservationRefused: lambda e: (
        f"refused capacity on {e.target}, because: {reason(e.code)} ({e.message})"
    ),
    rev.ReservationConfirmed: lambda e: f"counts the capacity on {e.target} as used by the machine",
    rev.ReservationExpired: lambda e: (
        f"freed the capacity on {e.target}: nobody had used it by its deadline"
    ),
    rev.ReservationReleased: lambda e: (
        f"freed the capacity on {e.target}, because: {reason(e.why) or 'no longer needed'}"
    ),
    ev.PreparationOrdered: _preparation,
    ev.DestinationPrepared: lambda e: (
        f"created an empty machine in {duration(e.create_ns)}"
        f" and waits for the source at {e.address}:{e.port}"
    ),
    ev.PreparationRefused: lambda e: f"cannot take the machine, because: {e.message}",
    ev.StartDecided: _decided,
    ev.MigrationStarted: lambda e: (
        f"told {e.source} to move the machine to {e.destination} at {e.address}:{e.port}"
    ),
    ev.AbortOrdered: lambda e: (
        f"ordered the migration to end, because: {_because(e.reason, e.message)}"
    ),
    ev.PrecopyStarted: lambda e: (
        f"is connected ({count(e.connections, 'bulk connection')}) and begins to copy:"
        f" {size(e.resident_bytes)} in use, allocated there in {duration(e.populate_ns)};"
        " the machine runs on"
    ),
    ev.RoundCompleted: _round,
    ev.StunIntended: _intended,
    ev.MachineStunned: lambda e: (
        f"stunned the machine: paused between two steps, checkpoint of {size(e.checkpoint_bytes)}"
    ),
    ev.FinalCopySent: _final,
    ev.ImageStaged: _staged,
    ev.GoGiven: lambda _: (
        "heard that all is staged and gave GO: it runs the machine again only with proof that the"
        " destination does not"
    ),
    ev.ActivationStarted: lambda _: "heard GO and takes the ownership in the register",
    ev.MachineActivated: lambda e: (
        f"owns the machine and runs it;"
        f" from ownership to the first step {duration(max(e.first_step_ns - e.owned_ns, 0))}"
    ),
    ev.MachineReleased: lambda _: "heard that the machine runs there, and frees its memory here",
    ev.AbortIntended: lambda e: (
        "wants the machine back after GO and wrote so to the register, where the destination can"
        " take it no more; it waits for the word that nothing runs there,"
        f" because: {_because(e.reason)}"
    ),
    ev.MachineTakenBack: lambda e: (
        f"took the ownership back in the register, because: {_because(e.reason)}"
    ),
    ev.MigrationAbandoned: _abandoned,
    ev.ImageQuarantined: lambda e: (
        f"will not run what it has of the machine, because: {_because(e.reason)}"
    ),
    ev.MemoryLeft: lambda e: f"ALARM: could not free the machine's memory, because: {e.message}",
    ev.ImageDiscarded: lambda e: (
        f"freed what it had received, because: {_because(e.reason, e.message)}"
    ),
    ev.DoubtRaised: lambda e: (
        f"ALARM: cannot prove who may run the machine: {e.message}{_DOUBTS.get(e.message, '')}"
    ),
    ev.RunOrdered: _run_ordered,
    lev.LossOrdered: lambda e: (
        f"{_by(e.requested_by)} to give the machine up, vouching that both hosts are off for good"
    ),
    ev.RunOrderRefused: lambda e: f"did not do what was ordered: {e.message}",
    ev.HostFenced: _fenced,
    ev.MigrationEnded: _ended,
    sev.LaneSigned: _signed,
    eev.EstimateMade: _estimated,
    eev.EstimateCompared: _compared,
    mev.MachineStartRequested: _start_requested,
    mev.MachineStarted: lambda e: f"started machine {e.spec.name}: it runs",
    mev.MachineStartRefused: lambda e: (
        f"did not start the machine, because: {reason(e.code)} ({e.message})"
    ),
    mev.MachineStopRequested: lambda e: f"{_by(e.requested_by)} to stop the machine",
    mev.MachineStopped: lambda _: "stopped the machine and freed its memory",
    mev.MachineStopRefused: lambda e: (
        f"did not stop the machine, because: {reason(e.code)} ({e.message})"
    ),
    mev.MachinePauseRequested: lambda e: f"{_by(e.requested_by)} to pause the machine",
    mev.MachineResumeRequested: lambda e: f"{_by(e.requested_by)} to resume the machine",
    mev.MachinePaused: lambda _: "paused the machine: it stands still, wherever it is moved",
    mev.MachineResumed: lambda _: "resumed the machine: it goes on",
    mev.MachinePauseRefused: lambda e: (
        f"neither paused nor resumed the machine, because: {reason(e.code)} ({e.message})"
    ),
    mev.OrphanCollected: lambda e: (
        f"ended a VMM that was left behind ({e.kind}, epoch {e.image_epoch}):"
        f" {e.owner} owns the machine in epoch {e.register_epoch}"
    ),
    mev.StaleMachineFrozen: lambda e: (
        f"ALARM: paused a machine that ran here in epoch {e.image_epoch},"
        f" though {e.owner} owns it in epoch {e.register_epoch}"
    ),
    mev.RegisterWentBack: lambda e: (
        f"ALARM: the register went back from revision {e.seen_sequence} (epoch {e.seen_epoch})"
        f" to {e.found_sequence} (epoch {e.found_epoch}): nothing is decided on it"
    ),
    mev.RegisterRestored: lambda e: (
        f"wrote into the register again that it runs the machine (epoch {e.register_epoch})"
    ),
    mev.MachineFailed: lambda e: f"found the machine dead, because: {e.message}",
    mev.HostAnnounced: _announced,
}
