"""Events of a machine's life on its host, and of the hosts themselves."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

import msgspec

from ..facts import GpuFacts, HostFacts
from ..machine import HypervisorKind, MachineSpec
from .envelope import Event


class GpuInventory(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU of a host. ``simulated``: from the host's configuration, no such device is there.

    ``nvlink_peers``: the host's other GPUs, by index, to which it has NVLink. ``facts`` None:
    announced by a release that did not tell them.
    """

    index: int
    model: str
    memory_bytes: int
    simulated: bool
    nvlink_peers: tuple[int, ...] = ()
    facts: GpuFacts | None = None


class MachineStartRequested(Event, frozen=True, kw_only=True):
    """An operator asked a host to start a machine. ``start`` is the id of this attempt."""

    TYPE: ClassVar[str] = "machine_start_requested"
    start: str
    spec: MachineSpec
    requested_by: str = ""


class MachineStarted(Event, frozen=True, kw_only=True):
    """The machine runs."""

    TYPE: ClassVar[str] = "machine_started"
    start: str
    spec: MachineSpec
    register_epoch: int


class MachineStartRefused(Event, frozen=True, kw_only=True):
    """The machine was not started; nothing is left of the attempt."""

    TYPE: ClassVar[str] = "machine_start_refused"
    start: str
    code: str
    message: str
    hint: str = ""


class MachineStopRequested(Event, frozen=True, kw_only=True):
    """An operator asked the machine's host to stop it."""

    TYPE: ClassVar[str] = "machine_stop_requested"
    stop: str
    requested_by: str = ""


class MachineStopped(Event, frozen=True, kw_only=True):
    """The machine is gone, its memory freed. ``register_epoch``: in which it was owned last (0:
    unknown); one that was started in a later epoch is not what was stopped.
    """

    TYPE: ClassVar[str] = "machine_stopped"
    stop: str = ""
    register_epoch: int = 0


class MachineStopRefused(Event, frozen=True, kw_only=True):
    """The machine was not stopped."""

    TYPE: ClassVar[str] = "machine_stop_refused"
    stop: str
    code: str
    message: str


class MachinePauseRequested(Event, frozen=True, kw_only=True):
    """An operator asked the machine's host to let it stand still."""

    TYPE: ClassVar[str] = "machine_pause_requested"
    request: str
    requested_by: str = ""


class MachineResumeRequested(Event, frozen=True, kw_only=True):
    """An operator asked the machine's host to let it go on."""

    TYPE: ClassVar[str] = "machine_resume_requested"
    request: str
    requested_by: str = ""


class MachinePaused(Event, frozen=True, kw_only=True):
    """The machine stands still, and will wherever it is moved."""

    TYPE: ClassVar[str] = "machine_paused"
    request: str


class MachineResumed(Event, frozen=True, kw_only=True):
    """The machine goes on."""

    TYPE: ClassVar[str] = "machine_resumed"
    request: str


class MachinePauseRefused(Event, frozen=True, kw_only=True):
    """The machine was neither paused nor resumed."""

    TYPE: ClassVar[str] = "machine_pause_refused"
    request: str
    code: str
    message: str


class MachineFailed(Event, frozen=True, kw_only=True):
    """The guest raised or the VMM died: the machine does not run any more. ``register_epoch``: in
    which it was owned then (0: unknown); under a later one another image of it may run.
    """

    TYPE: ClassVar[str] = "machine_failed"
    message: str
    register_epoch: int = 0


class LeftoverKind(StrEnum):
    """What a VMM that no migration holds any more holds itself."""

    EMPTY = "empty"
    """Memory without a whole image."""
    STAGED = "staged"
    """A whole image that never ran here."""
    STUNNED = "stunned"
    """The machine, as it was when it was stunned here, or when its guest failed."""
    RUNNING = "running"


class OrphanCollected(Event, frozen=True, kw_only=True):
    """A host ended a VMM that was left behind: its machine is ``owner``'s, in a later epoch.

    ``image_epoch``: the epoch in which its image was current.
    """

    TYPE: ClassVar[str] = "orphan_collected"
    kind: LeftoverKind
    image_epoch: int
    owner: str
    register_epoch: int


class StaleMachineFrozen(Event, frozen=True, kw_only=True):
    """Alarm: a machine ran here that is ``owner``'s in a later epoch. It is paused, and kept."""

    TYPE: ClassVar[str] = "stale_machine_frozen"
    image_epoch: int
    owner: str
    register_epoch: int


class RegisterWentBack(Event, frozen=True, kw_only=True):
    """Alarm: the machine's register shows less than this host has seen: it has lost a write. The
    host decides nothing about the machine until it shows more again, or an operator orders it.
    """

    TYPE: ClassVar[str] = "register_went_back"
    seen_sequence: int
    seen_epoch: int
    found_sequence: int
    found_epoch: int


class RegisterRestored(Event, frozen=True, kw_only=True):
    """A host that runs the machine wrote again what the register had lost: that it may."""

    TYPE: ClassVar[str] = "register_restored"
    register_epoch: int
    register_sequence: int


class HostAnnounced(Event, frozen=True, kw_only=True):
    """What a host has, said at each start of its services and when it has changed.

    ``facts`` None: announced by a release that did not tell them. ``signing_key``: the public half
    of what it signs with; empty: it does not sign.
    """

    TYPE: ClassVar[str] = "host_announced"
    hypervisors: tuple[HypervisorKind, ...]
    missing: tuple[str, ...]
    memory_bytes: int
    kernel: str
    gpus: tuple[GpuInventory, ...]
    facts: HostFacts | None = None
    signing_key: bytes = b""
