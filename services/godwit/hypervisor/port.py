"""What a host service needs from a hypervisor. Knows nothing of migrations, events or NATS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from godwit.transfer.pacing import Pace
from godwit.transfer.port import BulkSession, Content
from godwit_protocol.compression import Compression
from godwit_protocol.errors import UnreachableError
from godwit_protocol.machine import MachineSpec


class VmmLostError(UnreachableError):
    """The machine's own VMM is gone, silent, or not to be tracked: the failure of its own host, and
    of no peer and no link.
    """


class VmmState(StrEnum):
    """Where a VMM is. Each method of ``Vmm`` says in which it may be called."""

    GATED = "gated"
    """Memory is allocated, the guest constructed; nothing has run. A destination waits here."""
    LOADED = "loaded"
    """A checkpoint is loaded; the gate is closed."""
    RUNNING = "running"
    PAUSED = "paused"
    """Stunned between two steps; its checkpoint is kept and can be asked for again."""
    FAILED = "failed"
    """The guest's code raised; ``VmmStatus.failure`` says what. The memory is still there."""


@dataclass(frozen=True, slots=True)
class VmmStatus:
    """One look at a VMM."""

    spec: MachineSpec
    state: VmmState
    epoch: int
    """The ownership epoch under which it runs or last ran; 0 if it never did."""
    pid: int
    steps: int
    failure: str
    halted: bool = False
    """An operator lets the guest stand still."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What ``pause`` returns."""

    data: bytes
    """Device state: the guest's own checkpoint and the guest I/O cursors. Opaque elsewhere."""
    stopped_ns: int
    """CLOCK_MONOTONIC at the end of the last step."""


class Vmm(Protocol):
    """A handle on one VMM process. Every call has a deadline and raises ``UnreachableError`` when
    the VMM is dead, ``DeadlineError`` when it is silent, ``ConflictError`` in a wrong state.
    """

    @property
    def name(self) -> str:
        """The machine's name."""

    async def status(self) -> VmmStatus:
        """Any state."""

    async def start(self, epoch: int) -> int:
        """GATED: boot the guest on zeroed memory and run it. Returns CLOCK_MONOTONIC ns."""

    async def pause(self) -> Checkpoint:
        """RUNNING or PAUSED: stop at the end of the current step. Idempotent."""

    async def resume(self, epoch: int) -> int:
        """PAUSED: go on here. Returns CLOCK_MONOTONIC ns of the next step's beginning."""

    async def halt(self, *, halted: bool) -> None:
        """RUNNING: let the guest stand still, or go on. It is part of the checkpoint: what stands
        still before a migration does so after it, wherever it is then.
        """

    async def load(self, checkpoint: bytes) -> None:
        """GATED: hand the checkpoint to the guest; its regions hold their bytes already."""

    async def open_gate(self, epoch: int) -> int:
        """LOADED: run. Returns CLOCK_MONOTONIC ns of the first step's beginning."""

    async def stop(self) -> None:
        """Any state: end the process and free its memory. Idempotent, also when it is dead."""

    async def outgoing(self) -> Outgoing:
        """RUNNING: the machine's memory, to be sent away. The caller closes it."""

    async def incoming(self) -> Incoming:
        """GATED: the machine's memory, to be received. The caller closes it."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a watch saw."""

    at_ns: int
    """CLOCK_MONOTONIC, in the middle of the sweep."""
    bytes_by_region: dict[str, int]
    cost_ns: int
    """Processor time that the sweep took, outside the machine."""


class WriteWatch(Protocol):
    """Counts what a machine writes, undisturbed by and undisturbing a migration of it. Used by one
    task.

    ``begin`` and ``look`` raise ``ConflictError`` once a migration tracks the memory: the watch is
    over then; and ``UnreachableError`` when the VMM is gone.
    """

    async def begin(self) -> Look:
        """Count from now on. Returns the bytes that the regions hold."""

    async def look(self) -> Look:
        """The bytes of the pages that were written since ``begin``, each page once."""

    async def close(self) -> None:
        """Let go of the memory. Idempotent."""


@runtime_checkable
class Watchable(Protocol):
    """A ``Vmm`` whose hypervisor can tell what is written, at nearly no cost to the machine."""

    async def watch(self) -> WriteWatch:
        """RUNNING: a watch, not begun yet. The caller closes it."""


@runtime_checkable
class Readable(Protocol):
    """A ``Vmm`` whose machine's memory is in files, which others on its host may read."""

    async def region_files(self) -> Sequence[int]:
        """Any state: a descriptor of each region's file, in the specification's order. The caller
        closes them, soon: they keep the memory from being freed; and never writes.
        """


class Hypervisor(Protocol):
    """A host's driver. One a host and kind."""

    @property
    def version(self) -> str:
        """Of the driver and of what it writes for another host to read."""

    def missing(self) -> Sequence[str]:
        """What this host lacks to run the driver, each in a sentence; empty if nothing."""

    def features(self) -> Sequence[str]:
        """What this host's kernel has of all that drivers need, by name."""

    def free_memory_bytes(self) -> int:
        """How much memory new machines could have. What was promised and not touched is free."""

    async def create(self, spec: MachineSpec) -> Vmm:
        """Create a VMM in GATED. Raises ``ConflictError`` if the machine exists here,
        ``GuestError`` if the guest cannot be imported, ``RefusedError`` if memory is lacking.
        """

    async def find(self, name: str) -> Vmm | None:
        """The VMM of a machine on this host that is alive, whoever created it."""

    async def find_all(self) -> Sequence[Vmm]:
        """All live VMMs on this host, also those that outlived the services."""

    async def forget(self, name: str) -> None:
        """Remove the files that a dead VMM left. Does nothing to one that lives. Idempotent."""

    async def find_dead(self) -> Sequence[str]:
        """Machines that had a VMM on this host whose process is proven dead, however it ended.

        What leaves no proof, such as a directory that is not there, is not named.
        """


@dataclass(frozen=True, slots=True)
class SentPages:
    """What a round sent, or was observed to send."""

    pages: int
    sent_bytes: int
    wire_bytes: int
    scan_ns: int
    """Time taken to find the dirty pages."""
    bytes_by_region: dict[str, int]
    digest_ns: int = 0
    """What digesting took of the sending threads' time, all connections together."""
    zero_bytes: int = 0
    """Pages that were zero, and only named."""
    zero_ns: int = 0
    """What finding them took of the sending threads' time, all connections together."""
    rewritten_bytes: int = 0
    """Pages that held what was sent of them before, and were left out."""
    rewritten_ns: int = 0
    """What finding them took, counted so."""
    looked_bytes: int = 0
    """Pages that were looked at for that."""
    content_bytes: int = 0
    """Chunks that the destination held already, and that were only named."""
    content_ns: int = 0
    """What offering chunks took of the round."""
    compression: Compression = Compression.NONE
    """By which pages were compressed, if any were."""
    compression_bytes: int = 0
    """Of those sent, what it left out."""
    compression_ns: int = 0
    """What it took of the sending threads' time, all connections together."""
    link_bytes_per_second: int = 0
    """What the link carries, as measured where pages were compressed; else 0."""
    connections: int = 0
    """How many carried the pages."""
    waiting_bytes: int = 0
    """Dirty pages that were not sent."""
    waiting_ns: int = 0
    """What of ``scan_ns`` it took to choose them."""
    hole_bytes: int = 0
    """In the first round: what was not looked at, for nothing was ever there."""


@dataclass(frozen=True, slots=True)
class DirtyPages:
    """What is dirty at a round's end."""

    total_bytes: int
    hot_bytes: int = 0
    """Of leaves that were dirty when the round began, too."""
    look_ns: int = 0
    """What finding this took, and will take of the stun: it grows with the machine. 0: nothing."""
    waiting_ns: int = 0
    """What of ``look_ns`` it took to tell what is hot."""


@dataclass(frozen=True, slots=True)
class LinkTarget:
    """Where the destination waits for the bulk connections of one migration."""

    address: str
    port: int
    session: bytes
    token: bytes
    connections: int
    digested: bool = False
    """Whether every frame is digested, on both sides."""
    omit_zeros: bool = True
    """Whether pages that are zero are only named."""
    omit_rewritten: bool = True
    """Whether pages that hold what was sent of them before are left out."""
    offer_content: bool = False
    """Whether chunks are offered by digest before they are sent."""
    compressions: tuple[Compression, ...] = ()
    """The methods by which pages may be compressed where that pays, the fastest first."""
    spread: int = 0
    """Over how many of the connections the first round goes, to be changed by measurement; 0: over
    all, always."""
    pace: Pace | None = None
    """What spaces the frames; None: nothing does."""


class Outgoing(Protocol):
    """A machine's memory on its way out. Used by one task; ``abort`` by any.

    Every method raises ``UnreachableError`` when the VMM or the peer is gone, of the VMM a
    ``VmmLostError`` where both could be, and ``AbortedError`` after ``abort``.
    """

    async def held(self) -> tuple[bytes, ...]:
        """The pages that each region holds now, as ``link.Hello.extents`` wants them."""

    async def connect(self, target: LinkTarget) -> None:
        """Open the bulk connections."""

    async def slow(self, percent: int) -> None:
        """Take so much of the guest's time from it, until told otherwise, ``close``, or the death
        of this process.
        """

    async def send_round(
        self, round_number: int, *, wait_bytes_max: int = 0, in_stun: bool = False
    ) -> SentPages:
        """Read and reset the dirty set and send it; the first round sends all that is held.

        ``wait_bytes_max``: so much of what is hot may stay dirty for a later round. ``in_stun``:
        the guest is paused, and this is the last round.
        """

    async def dirty(self) -> DirtyPages:
        """How much is dirty now, with what waits."""

    async def digests(self) -> dict[str, bytes]:
        """By region: SHA-256, to compare with the destination's. Only of a paused machine."""

    def sent_digest(self) -> bytes:
        """Of all that was sent in the rounds so far; empty if it is not digested."""

    def round_progress(self) -> tuple[int, int]:
        """Of the round under way: bytes handed to the kernel so far, and bytes in all."""

    def abort(self) -> None:
        """Break off at once, from wherever. Idempotent."""

    async def close(self) -> None:
        """End the bulk connections and let go of the memory. Idempotent."""


class Incoming(Protocol):
    """A gated machine's memory on its way in. Raises as ``Outgoing`` does."""

    def receive(
        self,
        session: bytes,
        connections: int,
        *,
        digested: bool,
        compressions: tuple[Compression, ...] = (),
        content: Content | None = None,
    ) -> BulkSession:
        """Make ready for the bulk connections of ``session``; the link's listener brings them.
        ``compressions``: the methods by which pages may come compressed. ``content``: what this
        host holds already, asked in the first round.
        """

    async def populate(self, extents: tuple[bytes, ...]) -> None:
        """Allocate the pages that the source holds. Raises ``RefusedError``: no memory."""

    async def close(self) -> None:
        """Let go of the memory: nothing writes it any more. Idempotent."""

    async def digests(self) -> dict[str, bytes]:
        """By region: SHA-256."""
