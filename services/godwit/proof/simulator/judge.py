"""Sees everything, in the instant in which it happens, and says what must never be.

It knows what no service can know: every VMM's memory, every record of the log. It uses none of the
services' own conclusions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from godwit.hypervisor.port import VmmState
from godwit_protocol import codec, ledger, subjects
from godwit_protocol import register as reg
from godwit_protocol.errors import CorruptError
from godwit_protocol.events import CHAIN_START, Lane, Recorded, stored_hash
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import AbortReason, Outcome
from godwit_protocol.ledger import HostPicture
from godwit_protocol.stored import Stored

from .machine import SimulatedVmm
from .process import World

if TYPE_CHECKING:
    from collections.abc import Iterable

VIOLATIONS_MAX: Final = 20
LOST_WITH: Final = frozenset({AbortReason.MACHINE_FAILED, AbortReason.SUPERSEDED})
"""How a migration may end that won its machine, which died before it ran: of itself, or because the
machine has been stopped and started anew since.
"""
PROBE_OUTCOMES: Final = frozenset(
    {AbortReason.NONE, AbortReason.RESERVATION_REFUSED, AbortReason.INCOMPATIBLE}
)
"""How a migration may end that nothing disturbs. A host may have no place for a machine."""


@dataclass
class MachineTruth:
    """What is really so of one machine."""

    latest: tuple[int, tuple[int, ...]] | None = None
    """The image at its last stun; None while it runs, or has never run."""
    vmms: list[SimulatedVmm] = field(default_factory=list)
    ran: bool = False
    over: str = ""
    """Why no current image is left, if none is: it was stopped, or what alone held it died."""
    relics: set[SimulatedVmm] = field(default_factory=set)
    """VMMs from before it was started anew."""
    ordered: dict[str, str] = field(default_factory=dict)
    """Hosts on which an operator ordered it to run, once, knowing what may be lost; and for which
    migration.
    """
    died_unheard: str = ""
    """The migration that gave it back to a VMM which died before it ran: who has another image
    cannot know that it had not.
    """
    lost_writes: int = 0
    """Of its register, since it named the host last that the machine runs on."""


@dataclass
class MigrationTruth:
    """What the log says of one migration."""

    machine: str
    ended: list[ev.MigrationEnded] = field(default_factory=list)
    moved: bool = False
    """Its last register record gave the machine to the destination."""
    source: str = ""
    destination: str = ""
    lost_image: bool = False
    """The machine's last current image went while it was open."""
    answers: int = 0
    """Alarms, and refusals of an operator's orders."""
    ran_nothing: bool = False
    """It is known in the log that what the source took back does not run there: by its own word, or
    by an operator's order.
    """
    lost_writes: int = 0
    """Of its machine's register, while it was open or since before it was asked for."""


class Judge:
    """One run's."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.violations: list[str] = []
        self.machines: dict[str, MachineTruth] = {}
        self.migrations: dict[str, MigrationTruth] = {}
        self.registers: dict[str, reg.RegisterRecord] = {}
        self.pictures: dict[str, HostPicture] = {}
        self.started: set[str] = set()
        self.starts: dict[str, bool] = {}
        """By attempt: whether the machine was started."""
        self.stops: dict[str, bool] = {}
        """By attempt: whether the machine was stopped."""
        self.probes: set[str] = set()
        """Migrations that were asked for in the calm."""
        self.events = 0
        self._chains: dict[tuple[str, ...], tuple[int, bytes]] = {}

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
        if not reg.may_run(record, vmm.host) and not truth.lost_writes:
            self.accuse(f"I1: {name} runs on {vmm.host}, but the register holds {record}")
        if record is not None and (record.owner, record.epoch) == (vmm.host, epoch):
            truth.lost_writes = 0
        is_accepted = vmm.host in truth.ordered and vmm not in truth.relics
        if truth.over and truth.latest is None and is_accepted:
            self.world.note(name, "runs by an operator's order, from an older image: that was said")
        elif vmm in truth.relics or (truth.over and truth.latest is None):
            self.accuse(f"I3: {name} runs on {vmm.host}, but its last current image is gone")
        elif truth.ran and truth.latest is None:
            self.accuse(f"I1: {name} is started on {vmm.host} without having been stunned")
        elif truth.latest is not None and vmm.image() != truth.latest:
            self.accuse(
                f"I3: {name} runs on {vmm.host} from {_words(vmm.image())}, "
                f"but at the stun it was {_words(truth.latest)}"
            )
        truth.latest, truth.ran, truth.over, truth.died_unheard = None, True, "", ""
        truth.ordered.pop(vmm.host, None)

    def paused(self, vmm: SimulatedVmm) -> None:
        """A VMM was stunned: from now on this is the machine."""
        self._truth(vmm).latest = vmm.image()
        self.world.note(vmm.host, f"{vmm.spec.name} stunned after step {vmm.steps}")

    def ended(self, vmm: SimulatedVmm) -> None:
        """A VMM was ended: a complete, current image must be left (I2), unless it was stopped: that
        the register says before.
        """
        truth, name = self._truth(vmm), vmm.spec.name
        self.world.note(vmm.host, f"VMM of {name} ended, {vmm.state}")
        if not self._is_last(vmm, truth):
            return
        if self._may_have_run(truth):
            truth.over = "what was given back died, and nobody said that it had not run"
            self.world.note(name, f"is dead: {truth.over}")
        else:
            self.accuse(f"I2: the last current image of {name} was freed on {vmm.host}")

    def died(self, vmm: SimulatedVmm, how: str) -> None:
        """A VMM died. If it alone held the machine, the machine is dead with it; unless its last
        image was stunned and is on its way.
        """
        truth, name = self._truth(vmm), vmm.spec.name
        self.world.note(vmm.host, f"VMM of {name} {how}, {vmm.state}")
        given_by = self._given_back_by(vmm)
        if self._is_last(vmm, truth):
            truth.over = f"what alone held it died on {vmm.host}"
            self.world.note(name, f"is dead: {truth.over}")
        elif given_by:
            truth.died_unheard = given_by
        else:
            return
        for migration in self.migrations.values():
            migration.lost_image |= migration.machine == name and not migration.ended

    def _given_back_by(self, vmm: SimulatedVmm) -> str:
        """The migration that gave the machine back to this VMM, which has not run since."""
        record = self.registers.get(vmm.spec.name)
        if record is None or record.value is not reg.RegisterValue.TAKEN_BACK:
            return ""
        is_its_own = record.owner == vmm.host and record.epoch > vmm.epoch
        return record.migration if is_its_own else ""

    def _may_have_run(self, truth: MachineTruth) -> bool:
        """Whether one who has an image must take it for stale, though it is not."""
        migration = self.migrations.get(truth.died_unheard)
        return migration is not None and not migration.ran_nothing

    def _is_last(self, vmm: SimulatedVmm, truth: MachineTruth) -> bool:
        """Take out a VMM; return whether it took the last current image with it."""
        truth.vmms.remove(vmm)
        truth.relics.discard(vmm)
        if truth.over or not truth.ran:
            return False
        return not any(_is_current(other, truth) for other in truth.vmms)

    def _begins(self, record: reg.RegisterRecord) -> None:
        """A machine is started: it has no memory of any former life."""
        truth = self._machine(record.machine)
        if truth.ran and not truth.over:
            self.accuse(f"I1: {record.machine} is started on {record.owner}, and was not stopped")
        truth.relics = {
            vmm for vmm in truth.vmms if vmm.host != record.owner or vmm.state is not VmmState.GATED
        }
        truth.ran, truth.latest, truth.over, truth.lost_writes = False, None, "", 0
        truth.died_unheard = ""
        truth.ordered.clear()

    def _truth(self, vmm: SimulatedVmm) -> MachineTruth:
        return self._machine(vmm.spec.name)

    def _machine(self, name: str) -> MachineTruth:
        return self.machines.setdefault(name, MachineTruth())

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
        match recorded.event:
            case ev.MigrationRequested(machine=machine):
                behind = self._machine(machine).lost_writes
                self.migrations[envelope.migration] = MigrationTruth(machine, lost_writes=behind)
            case ev.MigrationEnded() as ended:
                self._migration_ended(envelope.migration, ended)
            case ev.PreparationOrdered(source=source, destination=destination):
                truth = self.migrations[envelope.migration]
                truth.source, truth.destination = source, destination
            case ev.RunOrdered(target=target):
                self._ordered(envelope.migration, target)
            case mev.MachineFailed() if envelope.lane is Lane.SOURCE and envelope.migration:
                self.migrations[envelope.migration].ran_nothing = True
            case ev.DoubtRaised() | ev.RunOrderRefused():
                self.migrations[envelope.migration].answers += 1
            case mev.MachineStarted(start=start, spec=spec):
                self.started.add(spec.name)
                self.starts[start] = True
            case mev.MachineStartRefused(start=start):
                self.starts[start] = False
            case mev.MachineStopped(stop=stop):
                self.started.discard(envelope.machine)
                self.stops[stop] = True
            case mev.MachineStopRefused(stop=stop):
                self.stops[stop] = False
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
        lane = (scope, str(envelope.lane), envelope.host, envelope.life)
        before, last_hash = self._chains.get(lane, (0, CHAIN_START))
        if envelope.lane_sequence != before + 1 or envelope.prev_hash != last_hash:
            self.accuse(
                f"the lane {lane} goes from {before} to {envelope.lane_sequence} "
                f"({envelope.type}), or its hashes do not join"
            )
        self._chains[lane] = (envelope.lane_sequence, stored_hash(stored.data))

    def _ordered(self, migration: str, target: str) -> None:
        """An operator orders the machine to run there, which a migration that is over does not."""
        truth = self.migrations[migration]
        truth.ran_nothing = True
        if not truth.ended:
            self._machine(truth.machine).ordered[target] = migration

    def _migration_ended(self, migration: str, ended: ev.MigrationEnded) -> None:
        truth = self.migrations[migration]
        truth.ended.append(ended)
        self.world.note("migration", f"{migration[-6:]} {ended.outcome}: {ended.reason}")
        if len(truth.ended) > 1:
            self.accuse(f"migration {migration} ended twice")
        machine = self._machine(truth.machine)
        machine.ordered = {
            target: order for target, order in machine.ordered.items() if order != migration
        }

    def _register(self, record: reg.RegisterRecord) -> None:
        before = self.registers.get(record.machine)
        says = f"{record.machine}: {record.value} {record.owner} {record.epoch}"
        self.world.note("register", says)
        if before is not None and record.epoch < before.epoch:
            self.accuse(f"the register of {record.machine} goes back to epoch {record.epoch}")
        migration = self.migrations.get(record.migration)
        if migration is not None and not migration.ended:  # what is written again later is no move
            migration.moved = record.value is reg.RegisterValue.MOVED
            migration.ran_nothing &= record.value is not reg.RegisterValue.TAKEN_BACK
        if record.value is reg.RegisterValue.STARTED:
            self._begins(record)
        if record.value in reg.UNOWNED:  # even if a host still has an image of it
            self._is_nobodys(record)
        truth = self._machine(record.machine)
        running = [vmm for vmm in truth.vmms if vmm.state is VmmState.RUNNING]
        if any(vmm.host == record.owner and vmm.epoch <= record.epoch for vmm in running):
            truth.lost_writes = 0
        self.registers[record.machine] = record

    def _is_nobodys(self, record: reg.RegisterRecord) -> None:
        """A machine was stopped; or is said to be lost, which it must be (I2)."""
        truth, name = self._machine(record.machine), record.machine
        if record.value is reg.RegisterValue.LOST:
            self.started.discard(name)
            held_by = self.holder_of(name)
            if held_by and not truth.over and not self._may_have_run(truth):
                self.accuse(f"I2: {name} is written off, but {held_by} has a current image")
        truth.over, truth.latest = f"it is {record.value}", None

    def lost(self, stored: Stored, before: Stored | None) -> None:
        """The log lost a register record that it had acknowledged; ``before`` stands again."""
        record = reg.decode(stored.data)
        self.world.note("register", f"{record.machine}: {record.value} {record.epoch} IS LOST")
        self.machines[record.machine].lost_writes += 1
        for migration in self.migrations.values():
            if migration.machine == record.machine and not migration.ended:
                migration.lost_writes += 1
        if before is None:
            del self.registers[record.machine]
        else:
            self.registers[record.machine] = reg.decode(before.data)

    def _line(self, stored: Stored) -> None:
        try:
            entry = ledger.line_of(stored)
        except CorruptError as error:  # everybody passes over it, and no tracker writes such a one
            self.accuse(error.message)
            return
        picture = self.pictures.get(entry.host) or HostPicture(host=entry.host)
        picture = ledger.apply(picture, entry, stored.sequence)
        self.pictures[entry.host] = picture
        what = f"{entry.kind} {entry.reservation[-6:]} {entry.why}"
        self.world.note(f"ledger {entry.host}", what)
        for gpu in picture.gpus:
            held = [
                placement
                for holding in picture.holdings.values()
                for placement in holding.placements
                if placement.gpu == gpu.index
            ]
            slots = [slot for each in held for slot in range(each.start, each.start + each.slots)]
            is_full = picture.free_bytes(gpu.index) < 0 or len(slots) > len(set(slots))
            if is_full or len({each.mode for each in held}) > 1:
                self.accuse(f"reservations overlap on GPU {gpu.index} of {entry.host}: {held}")

    # The end.

    @property
    def open_migrations(self) -> list[str]:
        """Migrations that have not ended."""
        return [name for name, truth in self.migrations.items() if not truth.ended]

    @property
    def has_lost_writes(self) -> bool:
        """Whether a register lost a write and has not named since who runs its machine."""
        return any(truth.lost_writes for truth in self.machines.values())

    @property
    def is_any_register_behind(self) -> bool:
        """Whether a machine runs in a later epoch than its register, which lost a write, shows."""
        return any(
            vmm.state is VmmState.RUNNING and vmm.epoch > self._epoch_of(name)
            for name, truth in self.machines.items()
            for vmm in truth.vmms
        )

    def _epoch_of(self, machine: str) -> int:
        record = self.registers.get(machine)
        return record.epoch if record else 0

    def holder_of(self, machine: str) -> str:
        """The host with a current image; nothing if there is none."""
        truth = self.machines[machine]
        return next((vmm.host for vmm in truth.vmms if _is_current(vmm, truth)), "")

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
            is_lost = any(ended.reason in LOST_WITH for ended in truth.ended)
            is_excused = truth.lost_writes or (is_lost and truth.lost_image)
            if truth.ended and completed != truth.moved and not is_excused:
                self.accuse(f"migration {name}: completed {completed}, but moved {truth.moved}")
            reasons = {ended.reason for ended in truth.ended}
            if name in self.probes and not reasons <= PROBE_OUTCOMES:
                self.accuse(f"{truth.machine} could not be moved in the calm: {truth.ended}")
        for machine, standing in sorted(self.machines.items()):
            self._close_machine(machine, standing)
        self._close_reservations()

    def _close_machine(self, name: str, truth: MachineTruth) -> None:
        """A machine runs where the register says, and is nowhere else."""
        record = self.registers.get(name)
        found = [(vmm.host, vmm.state, vmm.epoch) for vmm in truth.vmms]
        expected = []
        if name in self.started and record is not None:
            ran_before = found == [(record.owner, VmmState.RUNNING, record.epoch - 1)]
            is_older = ran_before and record.value is reg.RegisterValue.TAKEN_BACK
            expected = [(record.owner, VmmState.RUNNING, record.epoch - is_older)]
        if found != expected:
            self.accuse(f"{name} is {found} ({truth.over}), and the register holds {record}")

    def _close_reservations(self) -> None:
        """What is held is where the machines are that need it, by their own word."""
        held = Counter(
            (picture.host, holding.machine)
            for picture in self.pictures.values()
            for holding in picture.holdings.values()
        )
        vmms = [(name, vmm) for name, truth in self.machines.items() for vmm in truth.vmms]
        seated = Counter((vmm.host, name) for name, vmm in vmms)
        needing = Counter((vmm.host, name) for name, vmm in vmms if vmm.spec.vgpus)
        for host, machine in sorted((held - seated).elements()):
            self.accuse(f"a reservation of {machine} on {host} is held by nobody: leaked")
        for host, machine in sorted((needing - held).elements()):
            self.accuse(f"{machine} sits on {host} without a reservation")


def _is_current(vmm: SimulatedVmm, truth: MachineTruth) -> bool:
    if vmm.state is VmmState.RUNNING:
        return True
    whole = vmm.state in (VmmState.PAUSED, VmmState.LOADED)
    return whole and vmm.image() == truth.latest


def _words(image: tuple[int, Iterable[int]]) -> str:
    steps, memory = image
    return f"step {steps} with memory {list(memory)}"
