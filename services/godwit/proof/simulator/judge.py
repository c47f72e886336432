"""Sees everything, in the instant in which it happens, and says what must never be.

It knows what no service can know: every VMM's memory, every record of the log. It uses none of the
services' own conclusions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from godwit.gpu_state_tracker.occupancy import Occupancy
from godwit.hypervisor.port import VmmState
from godwit.runtime.event_log import Stored
from godwit_protocol import codec, ledger, subjects
from godwit_protocol import register as reg
from godwit_protocol.events import CHAIN_START, Recorded, stored_hash
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import AbortReason, Outcome
from godwit_protocol.ledger import HostPicture

from .machine import SimulatedVmm
from .process import World

if TYPE_CHECKING:
    from collections.abc import Iterable

VIOLATIONS_MAX: Final = 20
PROBE_OUTCOMES: Final = frozenset({AbortReason.NONE, AbortReason.RESERVATION_REFUSED})
"""How a migration may end that nothing disturbs. A host may have no place for a machine."""


@dataclass
class MachineTruth:
    """What is really so of one machine."""

    latest: tuple[int, tuple[int, ...]] | None = None
    """The image at its last stun; None while it runs, or has never run."""
    vmms: list[SimulatedVmm] = field(default_factory=list)
    ran: bool = False


@dataclass
class MigrationTruth:
    """What the log says of one migration."""

    machine: str
    ended: list[ev.MigrationEnded] = field(default_factory=list)
    moved: bool = False
    """A register record gave the machine to the destination."""
    doubts: int = 0


class Judge:
    """One run's."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.violations: list[str] = []
        self.machines: dict[str, MachineTruth] = {}
        self.migrations: dict[str, MigrationTruth] = {}
        self.registers: dict[str, reg.RegisterRecord] = {}
        self.pictures: dict[str, HostPicture] = {}
        self.occupancy = Occupancy()
        self.granted: set[str] = set()
        self.started: set[str] = set()
        self.starts: dict[str, bool] = {}
        """By attempt: whether the machine was started."""
        self.probes: set[str] = set()
        """Migrations that were asked for in the calm."""
        self.events = 0
        self._chains: dict[tuple[str, str, str], tuple[int, bytes]] = {}

    def accuse(self, what: str) -> None:
        """Something happened that must never be."""
        self.world.note("JUDGE", f"VIOLATION: {what}")
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(what)

    # Machines.

    def created(self, vmm: SimulatedVmm) -> None:
        """A VMM was created, gated."""
        self._truth(vmm).vmms.append(vmm)
        self.world.note(vmm.host, f"VMM of {vmm.spec.name} created")

    def runs(self, vmm: SimulatedVmm, epoch: int) -> None:
        """A VMM is about to run: by the register, alone (I1), and with the latest image (I3)."""
        truth, name = self._truth(vmm), vmm.spec.name
        self.world.note(vmm.host, f"{name} runs in epoch {epoch}, from step {vmm.steps}")
        for other in truth.vmms:
            if other is not vmm and other.state is VmmState.RUNNING:
                self.accuse(f"I1: {name} runs on {other.host} and on {vmm.host}")
        record = self.registers.get(name)
        if not reg.may_run(record, vmm.host):
            self.accuse(f"I1: {name} runs on {vmm.host}, but the register holds {record}")
        if truth.ran and truth.latest is None:
            self.accuse(f"I1: {name} is started on {vmm.host} without having been stunned")
        if truth.latest is not None and vmm.image() != truth.latest:
            self.accuse(
                f"I3: {name} runs on {vmm.host} from {_words(vmm.image())}, "
                f"but at the stun it was {_words(truth.latest)}"
            )
        truth.latest, truth.ran = None, True

    def paused(self, vmm: SimulatedVmm) -> None:
        """A VMM was stunned: from now on this is the machine."""
        self._truth(vmm).latest = vmm.image()
        self.world.note(vmm.host, f"{vmm.spec.name} stunned after step {vmm.steps}")

    def ended(self, vmm: SimulatedVmm) -> None:
        """A VMM was ended: a complete, current image must be left (I2)."""
        truth, name = self._truth(vmm), vmm.spec.name
        truth.vmms.remove(vmm)
        self.world.note(vmm.host, f"VMM of {name} ended, {vmm.state}")
        if truth.ran and not any(_is_current(other, truth) for other in truth.vmms):
            self.accuse(f"I2: the last current image of {name} was freed on {vmm.host}")

    def _truth(self, vmm: SimulatedVmm) -> MachineTruth:
        return self.machines.setdefault(vmm.spec.name, MachineTruth())

    # The log.

    def stored(self, stored: Stored) -> None:
        """A message was stored."""
        stream = subjects.stream_of(stored.subject)
        if stream == subjects.EVENTS:
            self._event(stored)
        elif stream == subjects.LEDGER:
            self._line(stored)
        elif stored.subject.startswith(f"{subjects.ROOT}.register."):
            self._register(reg.decode(stored.data))

    def _event(self, stored: Stored) -> None:
        recorded = codec.decode(stored.data, stored.sequence)
        envelope = recorded.envelope
        self.events += 1
        self.world.note(f"log {stored.sequence}", f"{envelope.host}: {envelope.type}")
        self._check_chain(stored, recorded)
        self.occupancy.learn(recorded)
        match recorded.event:
            case ev.MigrationRequested(machine=machine):
                self.migrations[envelope.migration] = MigrationTruth(machine)
            case ev.MigrationEnded() as ended:
                self._migration_ended(envelope.migration, ended)
            case ev.DoubtRaised():
                self.migrations[envelope.migration].doubts += 1
            case ev.ReservationGranted(reservation=reservation):
                self.granted.add(reservation)
            case mev.MachineStarted(start=start, spec=spec):
                self.started.add(spec.name)
                self.starts[start] = True
            case mev.MachineStartRefused(start=start):
                self.starts[start] = False
            case mev.HostAnnounced(gpus=gpus):
                picture = self.pictures.get(envelope.host) or HostPicture(host=envelope.host)
                if not picture.announced:
                    self.pictures[envelope.host] = HostPicture(
                        host=picture.host, announced=True, gpus=gpus, holdings=picture.holdings
                    )
            case _:
                pass

    def _check_chain(self, stored: Stored, recorded: Recorded) -> None:
        """A lane's events are contiguous, and each carries the hash of the one before."""
        envelope = recorded.envelope
        scope = envelope.migration or envelope.machine or f"host {envelope.host}"
        lane = (scope, str(envelope.lane), envelope.host)
        before, last_hash = self._chains.get(lane, (0, CHAIN_START))
        if envelope.lane_sequence != before + 1 or envelope.prev_hash != last_hash:
            self.accuse(
                f"the lane {lane} goes from {before} to {envelope.lane_sequence} "
                f"({envelope.type}), or its hashes do not join"
            )
        self._chains[lane] = (envelope.lane_sequence, stored_hash(stored.data))

    def _migration_ended(self, migration: str, ended: ev.MigrationEnded) -> None:
        truth = self.migrations[migration]
        truth.ended.append(ended)
        self.world.note("migration", f"{migration[-6:]} {ended.outcome}: {ended.reason}")
        if len(truth.ended) > 1:
            self.accuse(f"migration {migration} ended twice")

    def _register(self, record: reg.RegisterRecord) -> None:
        before = self.registers.get(record.machine)
        says = f"{record.machine}: {record.value} {record.owner} {record.epoch}"
        self.world.note("register", says)
        if before is not None and record.epoch < before.epoch:
            self.accuse(f"the register of {record.machine} goes back to epoch {record.epoch}")
        if record.value is reg.RegisterValue.MOVED:
            self.migrations[record.migration].moved = True
        self.registers[record.machine] = record

    def _line(self, stored: Stored) -> None:
        entry = ledger.decode_entry(stored.data)
        picture = self.pictures.get(entry.host) or HostPicture(host=entry.host)
        picture = ledger.apply(picture, entry, stored.sequence)
        self.pictures[entry.host] = picture
        self.world.note(f"ledger {entry.host}", f"{entry.kind} {entry.reservation[-6:]}")
        for gpu in picture.gpus:
            if picture.free_bytes(gpu.index) < 0:
                self.accuse(f"reservations overlap on GPU {gpu.index} of {entry.host}")

    # The end.

    @property
    def open_migrations(self) -> list[str]:
        """Migrations that have not ended."""
        return [name for name, truth in self.migrations.items() if not truth.ended]

    def outcomes(self) -> Counter[str]:
        """How the migrations ended."""
        counted: Counter[str] = Counter()
        for truth in self.migrations.values():
            for ended in truth.ended:
                done = ended.outcome is Outcome.COMPLETED
                counted["completed" if done else f"aborted: {ended.reason}"] += 1
        return counted

    def close(self) -> None:
        """The faults are over and time has passed: all must be at rest, and nothing left behind."""
        for name in self.open_migrations:
            self.accuse(f"migration {name} of {self.migrations[name].machine} never ended")
        for name, truth in self.migrations.items():
            completed = any(ended.outcome is Outcome.COMPLETED for ended in truth.ended)
            if truth.ended and completed != truth.moved:
                self.accuse(f"migration {name}: completed {completed}, but moved {truth.moved}")
            if name in self.probes and not PROBE_OUTCOMES.issuperset(
                ended.reason for ended in truth.ended
            ):
                self.accuse(f"{truth.machine} could not be moved in the calm: {truth.ended}")
        for machine in sorted(self.started):
            self._close_machine(machine, self.machines[machine])
        self._close_reservations()

    def _close_machine(self, name: str, truth: MachineTruth) -> None:
        record = self.registers.get(name)
        found = [(vmm.host, vmm.state, vmm.epoch) for vmm in truth.vmms]
        if record is None or found != [(record.owner, VmmState.RUNNING, record.epoch)]:
            self.accuse(f"{name} is {found}, and the register holds {record}")

    def _close_reservations(self) -> None:
        held = {name for picture in self.pictures.values() for name in picture.holdings}
        seated = {name for name in self.granted if self._is_used(name)}
        for name in sorted(held - seated):
            self.accuse(f"reservation {name} is held by nobody: leaked")
        for name in sorted(seated - held):
            self.accuse(f"reservation {name} is used and not held")

    def _is_used(self, reservation: str) -> bool:
        fate = self.occupancy.fate_of(reservation)
        return fate is not None and type(fate).__name__ == "ReservationUsed"


def _is_current(vmm: SimulatedVmm, truth: MachineTruth) -> bool:
    if vmm.state is VmmState.RUNNING:
        return True
    whole = vmm.state in (VmmState.PAUSED, VmmState.LOADED)
    return whole and vmm.image() == truth.latest


def _words(image: tuple[int, Iterable[int]]) -> str:
    steps, memory = image
    return f"step {steps} with memory {list(memory)}"
