"""Events of a migration. Names of figures end in their unit."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

import msgspec

from ..compatibility.verdict import Verdict
from ..compression import Compression
from ..convergence import Decision, DecisionReason
from ..estimation.admission import AdmissionPolicy
from ..machine import MachineSpec
from .envelope import Event
from .reservation import Placement


class Outcome(StrEnum):
    """How a migration ended, or that it has not."""

    RUNNING = "running"
    COMPLETED = "completed"
    ABORTED = "aborted"
    IN_DOUBT = "in_doubt"


class AbortReason(StrEnum):
    """Why a migration did not complete."""

    NONE = ""
    MACHINE_UNKNOWN = "machine_unknown"
    ALREADY_THERE = "already_there"
    ALREADY_MIGRATING = "already_migrating"
    HOST_UNKNOWN = "host_unknown"
    INCOMPATIBLE = "incompatible"
    RESERVATION_REFUSED = "reservation_refused"
    DESTINATION_REFUSED = "destination_refused"
    DESTINATION_LOST = "destination_lost"
    SOURCE_LOST = "source_lost"
    STUN_LIMIT_UNREACHABLE = "stun_limit_unreachable"
    STUN_LIMIT_EXCEEDED = "stun_limit_exceeded"
    STUN_BOUND_OVER_LIMIT = "stun_bound_over_limit"
    CANCELLED = "cancelled"
    DEADLINE_PASSED = "deadline_passed"
    LOG_UNREACHABLE = "log_unreachable"
    VERIFICATION_FAILED = "verification_failed"
    MACHINE_FAILED = "machine_failed"
    SERVICE_RESTARTED = "service_restarted"
    SUPERSEDED = "superseded"
    DISK_FULL = "disk_full"


class Verify(StrEnum):
    """What the destination compares before it says STAGED."""

    OFF = "off"
    """Only that every frame came once, in its place, and as many pages as were sent."""
    WIRE = "wire"
    """Also the digests of what was sent and what was applied: in the stun, 16 bytes."""
    FULL = "full"
    """Also SHA-256 of every region on both sides: costs stun time that grows with the machine."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a migration may cost. Times are in nanoseconds.

    ``stalled_rounds_max``: so many rounds in a row may leave no less than the best one before them
    did, while a stun would be too long; then it is given up. ``stun_limit_max_ns``: what the stun
    may take instead, before it is given up; 0: no more than ``stun_limit_ns``.
    ``slow_percent_max``: how much of the guest's time may be taken from it, so that it writes less.
    ``rounds_max`` 0: no pre-copy; the machine is stunned, and all of it sent then.
    ``bandwidth_bytes_per_second``: how much of the link pre-copy may take; 0: all of it.
    """

    stun_limit_ns: int = 500_000_000
    deadline_ns: int = 600_000_000_000
    rounds_max: int = 30
    stalled_rounds_max: int = 5
    stun_limit_max_ns: int = 0
    slow_percent_max: int = 0
    bandwidth_bytes_per_second: int = 0

    @property
    def longest_stun_ns(self) -> int:
        """What the stun may take at the very most."""
        return max(self.stun_limit_ns, self.stun_limit_max_ns)


class RoundFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What one round of pre-copy did. ``remaining_bytes``: dirty when the round had ended.

    ``digest_ns``: what digesting took of the sending threads' time, all connections together.
    ``zero_bytes``: pages that were zero, and only named; finding them took ``zero_ns``, counted so.
    ``rewritten_bytes``: pages that held what was sent of them before, and were left out; finding
    them took ``rewritten_ns``. ``looked_bytes``: pages that were looked at for that.
    ``content_bytes``: chunks that the destination held already, and that were only named; offering
    them took ``content_ns`` of the round, on the connection that it took longest on.
    ``compression``: the method by which pages were compressed, if any were. It left
    ``compression_bytes`` out of ``sent_bytes``, and took ``compression_ns`` of the sending threads'
    time, with trying it. ``link_bytes_per_second``: what the link carries, as measured then, for
    the round's own rate does not tell; 0 if nothing was compressed. ``connections``: how many
    carried the pages; 0: not told.
    ``cap_bytes_per_second``: the least bandwidth that was allowed while it was sent; 0: any.
    Waiting for it took ``paced_ns`` of the sending threads' time, counted so.
    ``look_ns``: what finding ``remaining_bytes`` took, as the stun must take for its own; 0: next
    to nothing, or not told. ``carrying_ns``: what of ``duration_ns`` the link had pages to carry,
    without finding them and without offering chunks; 0: not told. ``hot_bytes``: those of
    ``remaining_bytes`` whose leaves were dirty when the round began, too. ``waiting_bytes``: pages
    that were dirty then and were not sent, but wait for the stun. ``waiting_ns``: what telling
    both of them took, which is part of ``scan_ns`` and ``look_ns``. ``hole_bytes``: what of the
    machine the first round did not look at, for nothing was ever there; finding it is ``scan_ns``.
    """

    round: int
    pages: int
    sent_bytes: int
    wire_bytes: int
    duration_ns: int
    scan_ns: int
    remaining_bytes: int
    bytes_by_region: dict[str, int] = {}
    digest_ns: int = 0
    zero_bytes: int = 0
    zero_ns: int = 0
    rewritten_bytes: int = 0
    rewritten_ns: int = 0
    content_bytes: int = 0
    content_ns: int = 0
    compression: Compression = Compression.NONE
    compression_bytes: int = 0
    compression_ns: int = 0
    link_bytes_per_second: int = 0
    connections: int = 0
    cap_bytes_per_second: int = 0
    paced_ns: int = 0
    look_ns: int = 0
    hot_bytes: int = 0
    waiting_bytes: int = 0
    looked_bytes: int = 0
    carrying_ns: int = 0
    hole_bytes: int = 0
    waiting_ns: int = 0


class MigrationRequested(Event, frozen=True, kw_only=True):
    """An operator asked for a migration. ``admission`` None: as the coordinator is configured."""

    TYPE: ClassVar[str] = "migration_requested"
    machine: str
    destination: str
    limits: Limits
    verify: Verify = Verify.OFF
    requested_by: str = ""
    admission: AdmissionPolicy | None = None


class CancelRequested(Event, frozen=True, kw_only=True):
    """An operator asked for the migration to be cancelled."""

    TYPE: ClassVar[str] = "cancel_requested"
    requested_by: str = ""


class PreparationOrdered(Event, frozen=True, kw_only=True):
    """The destination is to create a gated VMM and listen."""

    TYPE: ClassVar[str] = "preparation_ordered"
    spec: MachineSpec
    source: str
    destination: str
    register_epoch: int
    limits: Limits
    verify: Verify
    placements: tuple[Placement, ...] = ()


class DestinationPrepared(Event, frozen=True, kw_only=True):
    """The destination has the memory and listens. The token admits one source to its link."""

    TYPE: ClassVar[str] = "destination_prepared"
    address: str
    port: int
    token: bytes
    create_ns: int


class PreparationRefused(Event, frozen=True, kw_only=True):
    """The destination cannot take the machine."""

    TYPE: ClassVar[str] = "preparation_refused"
    message: str


class StartDecided(Event, frozen=True, kw_only=True):
    """Whether the source will be told to start, and if not, why. At most one a migration.

    Replicas of the coordinator may see a deadline or a refusal differently; what this one event
    says goes for all of them. ``refusals``: the checks that refused, if the reason is that the
    hosts do not go together.
    """

    TYPE: ClassVar[str] = "start_decided"
    start: bool
    reason: AbortReason = AbortReason.NONE
    message: str = ""
    refusals: tuple[Verdict, ...] = ()


class MigrationStarted(Event, frozen=True, kw_only=True):
    """The source is to move the machine."""

    TYPE: ClassVar[str] = "migration_started"
    source: str
    destination: str
    address: str
    port: int
    token: bytes
    register_epoch: int
    limits: Limits
    verify: Verify


class AbortOrdered(Event, frozen=True, kw_only=True):
    """The migration is to end without moving the machine, if that is still possible."""

    TYPE: ClassVar[str] = "abort_ordered"
    reason: AbortReason
    message: str = ""


class PrecopyStarted(Event, frozen=True, kw_only=True):
    """The link stands, the destination's memory is populated; rounds begin."""

    TYPE: ClassVar[str] = "precopy_started"
    connections: int
    resident_bytes: int
    populate_ns: int


class RoundCompleted(Event, frozen=True, kw_only=True):
    """One round went out and was applied; and what was decided at its end, from which numbers.

    ``stun_bound_ns``: what the stun would take at the slowest rate of the last rounds.
    ``slow_percent``: of the guest's time, taken from it during the next round. ``wait_bytes_max``:
    so many of the hot bytes may wait for the stun in it.
    """

    TYPE: ClassVar[str] = "round_completed"
    figures: RoundFigures
    bandwidth_bytes_per_second: float
    dirty_bytes_per_second: float
    predicted_stun_ns: int
    stun_limit_ns: int
    decision: Decision
    reason: DecisionReason
    stun_bound_ns: int = 0
    slow_percent: int = 0
    wait_bytes_max: int = 0


class StunIntended(Event, frozen=True, kw_only=True):
    """The source is about to stun. Its acknowledgement proves that the log is reachable."""

    TYPE: ClassVar[str] = "stun_intended"
    predicted_stun_ns: int
    remaining_bytes: int


class MachineStunned(Event, frozen=True, kw_only=True):
    """FROZEN: the machine is paused on the source since ``stopped_ns`` (monotonic)."""

    TYPE: ClassVar[str] = "machine_stunned"
    stopped_ns: int
    checkpoint_bytes: int


class FinalCopySent(Event, frozen=True, kw_only=True):
    """The last pages and the checkpoint went out.

    ``clock_offset_ns``: the destination's monotonic clock less the source's, as asked over the link
    before the stun, within ``clock_error_ns``; None: not known. On one clock it says nothing.
    """

    TYPE: ClassVar[str] = "final_copy_sent"
    pages: int
    sent_bytes: int
    scan_ns: int
    sent_ns: int
    digest_ns: int = 0
    clock_offset_ns: int | None = None
    clock_error_ns: int = 0


class ImageStaged(Event, frozen=True, kw_only=True):
    """STAGED: the destination has every byte, verified, and holds it without running. One without
    figures is of a service that found it so when it was started again.
    """

    TYPE: ClassVar[str] = "image_staged"
    pages: int
    received_bytes: int
    received_ns: int
    staged_ns: int
    verified: Verify
    digests: dict[str, bytes] = {}


class GoGiven(Event, frozen=True, kw_only=True):
    """GO: from here no timeout makes the source run the machine."""

    TYPE: ClassVar[str] = "go_given"
    staged_heard_ns: int


class ActivationStarted(Event, frozen=True, kw_only=True):
    """ACTIVATING: the destination takes the ownership by compare-and-set."""

    TYPE: ClassVar[str] = "activation_started"
    go_heard_ns: int


class MachineActivated(Event, frozen=True, kw_only=True):
    """The register names the destination, the gate is open, the machine runs there."""

    TYPE: ClassVar[str] = "machine_activated"
    register_sequence: int
    owned_ns: int
    first_step_ns: int


class MachineReleased(Event, frozen=True, kw_only=True):
    """RELEASED: the source heard ACTIVE and frees the memory."""

    TYPE: ClassVar[str] = "machine_released"


class AbortIntended(Event, frozen=True, kw_only=True):
    """B stands in the register: after GO, the source wants the machine back."""

    TYPE: ClassVar[str] = "abort_intended"
    reason: AbortReason


class MachineTakenBack(Event, frozen=True, kw_only=True):
    """S2 stands in the register: the source owns the machine again."""

    TYPE: ClassVar[str] = "machine_taken_back"
    reason: AbortReason
    register_sequence: int


class MigrationAbandoned(Event, frozen=True, kw_only=True):
    """The machine runs on the source, where it was. ``stun_ns`` is 0 if it never stopped, and if
    the source's service was restarted since: it did not see when.
    """

    TYPE: ClassVar[str] = "migration_abandoned"
    reason: AbortReason
    message: str = ""
    stun_ns: int = 0


class ImageQuarantined(Event, frozen=True, kw_only=True):
    """The destination will not run what it has loaded. What it had staged, it keeps."""

    TYPE: ClassVar[str] = "image_quarantined"
    reason: AbortReason


class ImageDiscarded(Event, frozen=True, kw_only=True):
    """The destination freed what it had received."""

    TYPE: ClassVar[str] = "image_discarded"
    reason: AbortReason
    message: str = ""


class MemoryLeft(Event, frozen=True, kw_only=True):
    """Alarm: a host could not end the VMM of a machine that has left it, or did not come. It is
    collected as an orphan, once it can be.
    """

    TYPE: ClassVar[str] = "memory_left"
    message: str


class DoubtRaised(Event, frozen=True, kw_only=True):
    """Alarm: a party cannot prove who may run the machine, and holds it still."""

    TYPE: ClassVar[str] = "doubt_raised"
    message: str


class RunOrdered(Event, frozen=True, kw_only=True):
    """An operator, called by an alarm, ordered that the machine run on ``target``.

    ``may_be_lost`` is what the operator was told and accepted. ``other_is_off``: the operator
    vouches that the other host is powered off; where a fencing program is configured, only its word
    counts.
    """

    TYPE: ClassVar[str] = "run_ordered"
    target: str
    may_be_lost: tuple[str, ...] = ()
    other_is_off: bool = False
    requested_by: str = ""


class RunOrderRefused(Event, frozen=True, kw_only=True):
    """A host has not done what an operator ordered; nothing has changed. ``order``: its id."""

    TYPE: ClassVar[str] = "run_order_refused"
    order: str
    message: str


class HostFenced(Event, frozen=True, kw_only=True):
    """Proof that host ``target`` is powered off, and with it all that ran there.

    ``program`` is the fencing program that said so, and ``answer`` its line; without a program it
    is the word of the operator ``vouched_by``.
    """

    TYPE: ClassVar[str] = "host_fenced"
    target: str
    program: str = ""
    answer: str = ""
    vouched_by: str = ""


class MigrationEnded(Event, frozen=True, kw_only=True):
    """The last word of the coordinator. ``lost_epoch``: since then the machine is nobody's."""

    TYPE: ClassVar[str] = "migration_ended"
    outcome: Outcome
    reason: AbortReason = AbortReason.NONE
    message: str = ""
    lost_epoch: int = 0
