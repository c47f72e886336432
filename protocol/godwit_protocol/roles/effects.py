"""What a role can want done. A shell does them in order and tells the results back as inputs."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from ..events import Event
from ..events.migration import AbortReason, Verify
from ..events.reservation import Placement
from ..link import LinkMessage
from ..machine import MachineSpec
from ..register import RegisterRecord


class Durability(StrEnum):
    """What must have happened to an event before the next effect may be done."""

    LOGGED = "logged"
    """The log has acknowledged it; the role is told by ``Appended`` or ``AppendFailed``."""
    JOURNALED = "journaled"
    """It is on this host's disk (fdatasync); the log may lag."""
    FLUSHING = "flushing"
    """It is written to the journal's file, and on its way to the disk; ``AwaitFlush`` waits."""
    LAGGING = "lagging"
    """It is written to the journal's file; disk and log may lag."""


class Service(StrEnum):
    """A service that a decision can be addressed to."""

    SOURCE_HOST = "source_host"
    DESTINATION_HOST = "destination_host"


class Address(msgspec.Struct, frozen=True):
    """Who is to find an event waiting."""

    host: str
    service: Service


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """Anything that a role can want done."""


class Append(Effect, frozen=True, kw_only=True):
    """Write an event to our lane.

    ``held``: the log gets it together with the next that is not held, or a little later: what is
    published during a stun competes with what the stun waits for. ``refusable``: if the journal has
    no room for it, it is not written, and the role is told ``JournalFull``.
    """

    event: Event
    durability: Durability
    to: Address | None = None
    held: bool = False
    refusable: bool = False


class AwaitFlush(Effect, frozen=True, kw_only=True):
    """All that was appended is on this host's disk before the next effect may be done."""


class Say(Effect, frozen=True, kw_only=True):
    """Say it on the direct link. If the link is down, it is dropped: ``LinkLost`` comes or came."""

    message: LinkMessage


class CloseLink(Effect, frozen=True, kw_only=True):
    """Flush and close the direct link, control and bulk."""


class CompareAndSet(Effect, frozen=True, kw_only=True):
    """Write the register if its last sequence is still ``expected_sequence``."""

    record: RegisterRecord
    expected_sequence: int


class ReadRegister(Effect, frozen=True, kw_only=True):
    """Read the register and tell by ``RegisterRead``."""


class FencePeer(Effect, frozen=True, kw_only=True):
    """Have it proven that the peer's host is powered off: ``PeerFenced`` comes back, or nothing."""


# Source


class OpenLink(Effect, frozen=True, kw_only=True):
    """Connect, say Hello, wait for Welcome, connect the bulk connections."""

    address: str
    port: int
    token: bytes


class SendRound(Effect, frozen=True, kw_only=True):
    """Read and reset the dirty set, send it, wait until it is applied, and look what is dirty.

    Until the next one, ``slow_percent`` of the guest's time is taken from it. So many bytes of hot
    leaves as ``wait_bytes_max`` may be left for a later round or the stun.
    """

    round: int
    slow_percent: int = 0
    wait_bytes_max: int = 0


class SetBandwidth(Effect, frozen=True, kw_only=True):
    """From now on send no faster than this, until the stun; 0: as fast as the link carries."""

    bytes_per_second: int


class PauseMachine(Effect, frozen=True, kw_only=True):
    """Stop the guest between two steps."""


class SendFinal(Effect, frozen=True, kw_only=True):
    """Send the last dirty pages as round ``round``, and the digests if ``verify`` wants them.

    ``FinalSent`` or ``LinkLost`` comes back, perhaps when the machine is being resumed already.
    """

    round: int
    verify: Verify


class SayStage(Effect, frozen=True, kw_only=True):
    """Say Stage with the checkpoint that the pause gave."""

    round: int
    verify: Verify


class ResumeMachine(Effect, frozen=True, kw_only=True):
    """Run the machine here again, under ``epoch``.

    ``Resumed`` comes back, also if it runs already, or ``OperationFailed``: the VMM is dead, or its
    guest has failed. One that is merely silent is asked again.
    """

    epoch: int


class FreeMemory(Effect, frozen=True, kw_only=True):
    """End the VMM, once no other effect on it is under way. ``MemoryFreed`` comes back."""


# Destination


class PrepareMachine(Effect, frozen=True, kw_only=True):
    """Create the gated VMM and listen. ``Prepared`` or ``OperationFailed`` comes back."""

    spec: MachineSpec
    placements: tuple[Placement, ...]


class Populate(Effect, frozen=True, kw_only=True):
    """Allocate the pages that the source said it holds."""


class LoadImage(Effect, frozen=True, kw_only=True):
    """Wait for the last round, verify, and hand the checkpoint to the guest."""

    verify: Verify


class OpenGate(Effect, frozen=True, kw_only=True):
    """Run the machine here, under ``epoch``. ``GateOpened`` comes back, also if it runs already, or
    ``OperationFailed`` as from ``ResumeMachine``.
    """

    epoch: int


# Coordinator


class TakeClaim(Effect, frozen=True, kw_only=True):
    """Write the claim on the machine for this migration, if it is free."""

    machine: str


class ReleaseClaim(Effect, frozen=True, kw_only=True):
    """Free the claim if it is ours."""

    machine: str


class WriteOff(Effect, frozen=True, kw_only=True):
    """Write into the register that the machine, found by the migration in ``epoch``, is lost.
    ``WrittenOff`` comes back.
    """

    machine: str
    epoch: int


class Finish(Effect, frozen=True, kw_only=True):
    """The role has ended; the shell may forget it."""

    reason: AbortReason
