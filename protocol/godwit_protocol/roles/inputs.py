"""What a role can be told. ``PeerInput``: said by the other host; all others are our own world's.

Times that end in ``_ns`` are the host's CLOCK_MONOTONIC.
"""

from __future__ import annotations

import msgspec

from ..compatibility.verdict import Verdict
from ..events.estimate import EstimateMade
from ..events.migration import AbortReason, Limits, RoundFigures, Verify
from ..events.reservation import Placement
from ..machine import MachineSpec
from ..register import NO_REGISTER, RegisterRecord, RegisterView


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """Anything that a role can be told."""


class PeerInput(Input, frozen=True, kw_only=True):
    """Anything that the other host can tell a role."""


class Tick(Input, frozen=True, kw_only=True):
    """Time has passed; the state's deadline may have come."""


class LinkLost(Input, frozen=True, kw_only=True):
    """The direct link broke, or the peer was silent for too long."""

    message: str


class OperationFailed(Input, frozen=True, kw_only=True):
    """An effect on the machine could not be done. One on the link fails as ``LinkLost``."""

    message: str


class Appended(Input, frozen=True, kw_only=True):
    """The log acknowledged the event of type ``type``."""

    type: str


class JournalFull(Input, frozen=True, kw_only=True):
    """The journal's disk has no room for an event that was refusable: it was not written."""

    message: str


class AppendFailed(Input, frozen=True, kw_only=True):
    """The log did not acknowledge it in time: it may or may not be there."""

    type: str
    message: str


class CasSettled(Input, frozen=True, kw_only=True):
    """The register was written (``won``) or another value stands; ``standing`` is what stands."""

    won: bool
    standing: RegisterView


class CasUnclear(Input, frozen=True, kw_only=True):
    """No answer to the compare-and-set, nor to reading back."""

    message: str


class RegisterRead(Input, frozen=True, kw_only=True):
    """What the register held when it was read. Good for learning a fate, never for taking it."""

    standing: RegisterView


class AbortWanted(Input, frozen=True, kw_only=True):
    """The coordinator ordered the abort."""

    reason: AbortReason
    message: str = ""


class PeerFenced(Input, frozen=True, kw_only=True):
    """Proof that the peer cannot run the machine any more: its host is fenced, or it has journaled
    that its VMM is dead.
    """


class RunOrdered(Input, frozen=True, kw_only=True):
    """An operator, called by an alarm, ordered that the machine run here, knowing what may be lost.

    It settles what nobody can prove: whose image is current. It is no proof that the peer runs
    nothing: that must come from the peer's quarantine or from its fencing. ``standing``: what the
    register holds, for a role that was not shown it, because it went back; ``seen``: from where.
    """

    standing: RegisterView = NO_REGISTER
    seen: RegisterView = NO_REGISTER


# Source


class BandwidthOrdered(Input, frozen=True, kw_only=True):
    """The coordinator ordered another bandwidth, its ``change``-th; 0: as much as there is."""

    change: int
    bytes_per_second: int


class LinkUp(Input, frozen=True, kw_only=True):
    """The destination said Welcome: its memory is populated and the bulk connections stand."""

    connections: int
    resident_bytes: int
    populate_ns: int


class RoundDone(Input, frozen=True, kw_only=True):
    """A round was sent and applied."""

    figures: RoundFigures


class Paused(Input, frozen=True, kw_only=True):
    """The guest stopped between two steps."""

    stopped_ns: int
    checkpoint_bytes: int


class FinalSent(Input, frozen=True, kw_only=True):
    """The last pages are in the sockets. ``clock_offset_ns``: as in ``FinalCopySent``."""

    pages: int
    sent_bytes: int
    scan_ns: int
    sent_ns: int
    digest_ns: int = 0
    clock_offset_ns: int | None = None
    clock_error_ns: int = 0


class Resumed(Input, frozen=True, kw_only=True):
    """The machine runs on the source again."""

    first_step_ns: int


class MemoryFreed(Input, frozen=True, kw_only=True):
    """The VMM is gone and its memory with it."""


class MemoryLeft(Input, frozen=True, kw_only=True):
    """The VMM could not be ended, however often that was tried: whoever collects orphans has to."""

    message: str


class PeerRefused(PeerInput, frozen=True, kw_only=True):
    """The destination cannot go on and will run nothing."""

    reason: AbortReason
    message: str


class PeerStaged(PeerInput, frozen=True, kw_only=True):
    """STAGED stands in the destination's journal."""

    heard_ns: int


class PeerActive(PeerInput, frozen=True, kw_only=True):
    """The destination owns the machine and runs it: said on the link, or in the log."""

    epoch: int


class PeerQuarantined(PeerInput, frozen=True, kw_only=True):
    """In the destination's journal it stands that it will not run this image."""


# Destination


class Prepared(Input, frozen=True, kw_only=True):
    """The gated VMM exists and the link can come."""

    address: str
    port: int
    token: bytes
    create_ns: int


class Populated(Input, frozen=True, kw_only=True):
    """The pages that the source holds are allocated here."""

    populate_ns: int


class RoundReceived(Input, frozen=True, kw_only=True):
    """Every page of a round is in memory."""

    round: int
    pages: int
    received_bytes: int


class ImageLoaded(Input, frozen=True, kw_only=True):
    """The whole image is here, verified, and the guest has taken its checkpoint."""

    pages: int
    received_bytes: int
    received_ns: int
    staged_ns: int
    digests: dict[str, bytes] = {}


class ImageBad(Input, frozen=True, kw_only=True):
    """The image is not whole, not equal, or the guest could not load it."""

    reason: AbortReason
    message: str


class GateOpened(Input, frozen=True, kw_only=True):
    """The machine runs here. ``owned_ns``: when the register named us, or, if a former life of the
    service had it do so, when this one found that.
    """

    owned_ns: int
    first_step_ns: int


class PeerHello(PeerInput, frozen=True, kw_only=True):
    """The source opened the link. ``register_epoch``: what it believes to own."""

    register_epoch: int


class PeerStage(PeerInput, frozen=True, kw_only=True):
    """The source sent everything."""

    verify: Verify


class PeerGo(PeerInput, frozen=True, kw_only=True):
    """GO stands in the source's journal."""

    heard_ns: int


class PeerAbort(PeerInput, frozen=True, kw_only=True):
    """The source will not give GO, or wants the machine back after it."""

    reason: AbortReason


class PeerRuns(PeerInput, frozen=True, kw_only=True):
    """The source runs the machine again: the image here is stale."""


# Coordinator


class Considered(Input, frozen=True, kw_only=True):
    """A request, with what the log knows of its machine and its hosts.

    ``estimated``: what it is expected to take; None if nobody keeps histories here. ``refusals``:
    why the hosts do not go together. ``gpus``: those of the destination's that may be used; None:
    any.
    """

    machine: str
    destination: str
    limits: Limits
    verify: Verify
    spec: MachineSpec | None
    record: RegisterRecord | None
    destination_known: bool
    estimated: EstimateMade | None = None
    refusals: tuple[Verdict, ...] = ()
    gpus: tuple[int, ...] | None = None


class ClaimSettled(Input, frozen=True, kw_only=True):
    """The claim on the machine is ours, or ``holder``'s."""

    won: bool
    holder: str


class ClaimReleased(Input, frozen=True, kw_only=True):
    """The claim is free, or somebody else's."""


class Granted(Input, frozen=True, kw_only=True):
    """The tracker holds the capacity."""

    placements: tuple[Placement, ...]


class Refused(Input, frozen=True, kw_only=True):
    """The tracker or the destination refused."""

    reason: AbortReason
    message: str


class DestinationReady(Input, frozen=True, kw_only=True):
    """The destination listens."""

    address: str
    port: int
    token: bytes


class PreparationKnown(Input, frozen=True, kw_only=True):
    """The order to the destination stands in the log, whichever replica wrote it."""

    spec: MachineSpec
    source: str
    register_epoch: int


class StartKnown(Input, frozen=True, kw_only=True):
    """The decision whether to start stands in the log, whichever replica wrote it."""

    start: bool
    reason: AbortReason
    message: str


class EndKnown(Input, frozen=True, kw_only=True):
    """The migration's end stands in the log, whichever replica wrote it."""


class CancelWanted(Input, frozen=True, kw_only=True):
    """An operator asked for a cancel."""


class BandwidthWanted(Input, frozen=True, kw_only=True):
    """An operator asked for another bandwidth, by the request with the id ``order``."""

    order: str
    bytes_per_second: int
    requested_by: str = ""


class ImageLost(Input, frozen=True, kw_only=True):
    """What ``host`` had of the machine is gone: it says that its VMM is dead, or the other host has
    proof that it was off (``is_off``).
    """

    host: str
    is_off: bool = False


class WrittenOff(Input, frozen=True, kw_only=True):
    """The register says since ``epoch`` that nobody has the machine; 0: it has gone on, and stands
    as it was.
    """

    epoch: int


class SourceAbandoned(Input, frozen=True, kw_only=True):
    """The source runs the machine and will not move it."""

    reason: AbortReason
    message: str


class Activated(Input, frozen=True, kw_only=True):
    """The destination runs the machine."""


class SourceReleased(Input, frozen=True, kw_only=True):
    """The source has freed the memory."""
