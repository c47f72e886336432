"""At rest, the log folds to what is: the log's own projections, beside all that really holds state.

Folded are the events, the ledgers and the claims. Held against them are the VMMs, the registers,
and what each running service has in its memory. It must not know how anything came about.
"""

from __future__ import annotations

from collections.abc import Iterator

from godwit.gpu_state_tracker.tracker import Tracker
from godwit.hypervisor.port import VmmState
from godwit_protocol import codec, projections, subjects
from godwit_protocol import register as reg
from godwit_protocol.events import Recorded
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import Outcome
from godwit_protocol.projections import MachineSummary, MigrationSummary

from .judge import Judge, MachineTruth
from .services import Cluster

ENDED = (Outcome.COMPLETED, Outcome.ABORTED)


class Folded:
    """What the log says, by its projections alone."""

    def __init__(self, cluster: Cluster) -> None:
        self.migrations: dict[str, MigrationSummary] = {}
        self.machines: dict[str, MachineSummary] = {}
        self.owners: dict[str, tuple[str, int]] = {}
        """By machine: the host that said last that it runs there, and under which epoch."""
        self.lost: dict[str, int] = {}
        """By machine: since which epoch it is nobody's, if a migration ended so."""
        self.claims: dict[str, str] = {}
        streams = cluster.server.streams
        for stored in streams[subjects.EVENTS].messages:
            self._take(codec.decode(stored.data, stored.sequence))
        for stored in streams[subjects.REGISTER].messages:
            if stored.subject.startswith(subjects.claim("")):
                claim = reg.decode_claim(stored.data)
                self.claims[claim.machine] = claim.migration

    def _take(self, recorded: Recorded) -> None:
        envelope = recorded.envelope
        if envelope.migration:
            name = envelope.migration
            before = self.migrations.get(name) or MigrationSummary(id=name)
            self.migrations[name] = projections.fold(before, recorded)
        elif envelope.machine:
            name = envelope.machine
            machine = self.machines.get(name) or MachineSummary(name=name)
            self.machines[name] = projections.fold_machine(machine, recorded)
        match recorded.event:
            case (
                mev.MachineStarted(register_epoch=epoch)
                | mev.RegisterRestored(register_epoch=epoch)
            ):
                self._owns(recorded, epoch)
            case ev.MachineActivated() | ev.MachineTakenBack():
                self._owns(recorded, envelope.epoch)
            case ev.MigrationEnded(lost_epoch=epoch) if epoch:
                self.lost[envelope.machine] = epoch
            case _:
                pass

    def _owns(self, recorded: Recorded, epoch: int) -> None:
        machine, host = recorded.envelope.machine, recorded.envelope.host
        if epoch >= self.owners.get(machine, ("", 0))[1]:
            self.owners[machine] = host, epoch


def differences(cluster: Cluster, judge: Judge) -> Iterator[str]:
    """Everything in which the folded log and what is so differ, each in a sentence."""
    folded = Folded(cluster)
    for name, truth in sorted(judge.machines.items()):
        if not truth.lost_writes:
            yield from _of_machine(name, truth, folded, judge)
    for name, summary in folded.migrations.items():
        ended = judge.migrations[name].ended
        if ended and summary.outcome is not ended[-1].outcome:
            yield f"migration {name} folds to {summary.outcome}, and ended {ended[-1].outcome}"
    for machine, migration in folded.claims.items():
        is_open = migration and folded.migrations[migration].outcome not in ENDED
        if is_open:
            yield f"the claim on {machine} is held by {migration}, which has not ended"
    yield from lagging(cluster, judge)


def _of_machine(name: str, truth: MachineTruth, folded: Folded, judge: Judge) -> Iterator[str]:
    summary = folded.machines.get(name, MachineSummary(name=name))
    epoch = folded.owners.get(name, ("", 0))[1]
    is_lost = epoch < folded.lost.get(name, 0)
    is_well = not summary.stopped and not is_lost and not summary.failure_in(epoch)
    says_runs = summary.spec is not None and is_well
    running = [vmm for vmm in truth.vmms if vmm.state is VmmState.RUNNING]
    if says_runs != bool(running):
        yield f"the log says that {name} runs: {says_runs} ({summary}), but {running} does"
    for vmm in running:
        if vmm.spec != summary.spec:
            yield f"{name} runs as {vmm.spec}, but the log says {summary.spec}"
        record = judge.registers[name]
        # It ran again, its service died before it could say so, and the next life took it back.
        is_older = record.value is reg.RegisterValue.TAKEN_BACK and vmm.epoch == record.epoch - 1
        if folded.owners.get(name) != (vmm.host, vmm.epoch + is_older):
            yield f"{name} runs on {vmm.host} in {vmm.epoch}; the log says {folded.owners[name]}"
        if folded.owners.get(name) != (record.owner, record.epoch):
            yield f"the log says that {name} is {folded.owners[name]}'s, the register {record}"


def lagging(cluster: Cluster, judge: Judge) -> Iterator[str]:
    """What services hold in memory and the log does not say, or says no more."""
    for name, running in sorted(cluster.running.items()):
        if running.service is None or not running.process.alive:
            yield f"{name} does not run"
        elif isinstance(running.service, Tracker):
            yield from _of_tracker(name, running.service, judge)
        elif running.service.open:
            yield f"{name} still has a part in {running.service.open}, of which the log has the end"


def _of_tracker(name: str, tracker: Tracker, judge: Judge) -> Iterator[str]:
    for host, picture in judge.pictures.items():
        held = tracker.pictures[host].holdings if host in tracker.pictures else {}
        if held != picture.holdings:
            yield f"{name} holds {held} on {host}, and the ledger says {picture.holdings}"
