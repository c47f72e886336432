"""The judge catches what is broken on purpose: a simulator that cannot fail proves nothing."""

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import pytest
from calm_cluster import SPEC, CalmCluster, check_story

from godwit.gpu_state_tracker.occupancy import Fate, Occupancy
from godwit.hypervisor.port import Vmm, VmmState
from godwit.proof.simulator.clock import HostClock
from godwit.proof.simulator.faults import Weather
from godwit.proof.simulator.judge import Judge
from godwit.proof.simulator.machine import SimulatedVmm
from godwit.proof.simulator.process import World
from godwit.proof.simulator.run import simulate
from godwit.proof.simulator.transfer import ProcessSession
from godwit.runtime.lane import LaneWriter, Scope
from godwit.source_host import machines
from godwit_protocol import ledger, subjects
from godwit_protocol import register as reg
from godwit_protocol.catalogue import GpuMode
from godwit_protocol.events import Event, Lane
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events.machine import GpuInventory
from godwit_protocol.events.reservation import Placement
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles import source, source_copying, source_endings
from godwit_protocol.roles.effects import Address, Effect, FreeMemory, Service
from godwit_protocol.roles.source_state import Phase, SourceState
from godwit_protocol.roles.table import row
from godwit_protocol.roles.tracker import ReservationUsed
from godwit_protocol.stored import Stored


def catches(invariant: str, seeds: Iterable[int]) -> bool:
    """Whether one of the seeds shows that the invariant is broken."""
    violations = (violation for seed in seeds for violation in simulate(seed).violations)
    return any(violation.startswith(invariant) for violation in violations)


def test_a_page_that_was_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    take = ProcessSession.take

    def forget_one(
        session: ProcessSession, connection: int, number: int | None, values: dict[int, int]
    ) -> None:
        take(session, connection, number, dict(list(values.items())[1:]))

    monkeypatch.setattr(ProcessSession, "take", forget_one)
    assert catches("I3", [14, 19])


def violations_of_a_link_that_is_cut_after_go() -> list[str]:
    """The destination owns the machine, and its word that it runs does not arrive in time."""
    calm = CalmCluster()
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    calm.migrate()
    calm.until(lambda: calm.judge.registers["m"].value is reg.RegisterValue.MOVED)
    calm.cluster.network.isolate("host-2", seconds=30.0)
    calm.cluster.running["destination-host-2"].log.cut_until_s = 60.0
    calm.rest(60.0)
    calm.world.bury()
    return calm.judge.violations


def test_a_source_that_runs_again_on_a_timeout_after_go(monkeypatch: pytest.MonkeyPatch) -> None:
    assert violations_of_a_link_that_is_cut_after_go() == []

    def resume(
        state: SourceState, given: inp.Input, now_ns: int
    ) -> tuple[SourceState, tuple[Effect, ...]]:
        if isinstance(given, inp.Tick) and now_ns < state.deadline_ns:
            return state, ()
        return source_endings.resume(state, *source_endings.why(given))

    broken = row(resume, Phase.COMMITTED, Phase.RESUMING)
    for given in (inp.LinkLost, inp.Tick):
        monkeypatch.setitem(source.TABLE.rows, (Phase.COMMITTED, given), broken)
    violations = violations_of_a_link_that_is_cut_after_go()
    assert any(violation.startswith("I1") for violation in violations), violations


def test_a_source_that_frees_its_memory_when_all_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = source_copying.final_sent

    def send_and_free(
        state: SourceState, given: inp.Input, now_ns: int
    ) -> tuple[SourceState, tuple[Effect, ...]]:
        after, effects = sent(state, given, now_ns)
        return after, (*effects, FreeMemory())

    broken = row(send_and_free, Phase.STAGING)
    monkeypatch.setitem(source.TABLE.rows, (Phase.COPYING, inp.FinalSent), broken)
    freed: Callable[..., Any] = lambda state, _given, _now_ns: (state, ())  # noqa: E731
    for phase in Phase:
        if (phase, inp.MemoryFreed) not in source.TABLE.rows:
            monkeypatch.setitem(source.TABLE.rows, (phase, inp.MemoryFreed), row(freed, phase))
    assert catches("I2", range(1, 60))


def violations_of_a_death_after_the_machine_was_taken_back() -> list[str]:
    """The source took it back before GO, and its VMM died before it ran. The destination has the
    one good image.
    """
    calm = CalmCluster()
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    calm.migrate()
    here, there = (calm.place(name).host for name in ("host-1", "host-2"))
    calm.until(lambda: "m" in there.vmms and there.vmms["m"].state is VmmState.LOADED)
    calm.cluster.network.isolate("host-2", seconds=30.0)
    calm.until(lambda: calm.judge.registers["m"].value is reg.RegisterValue.TAKEN_BACK)
    here.kill(here.vmms["m"], "killed")
    calm.rest(60.0)
    calm.world.bury()
    return calm.judge.violations


def test_a_source_that_ends_the_migration_of_what_it_took_back_and_cannot_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert violations_of_a_death_after_the_machine_was_taken_back() == []
    monkeypatch.setattr(source_endings, "is_taken_back", lambda _state: False)
    violations = violations_of_a_death_after_the_machine_was_taken_back()
    assert any(violation.startswith("I2") for violation in violations), violations


def test_a_stop_that_frees_the_machine_before_the_register_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hold_still = machines._hold_still

    async def free(vmm: Vmm) -> None:
        await hold_still(vmm)
        await vmm.stop()

    monkeypatch.setattr(machines, "_hold_still", free)
    calm = CalmCluster()
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    calm.stop()
    calm.until(calm.has_told(mev.MachineStopped))
    calm.world.bury()
    assert [violation[:2] for violation in calm.judge.violations] == ["I2"]


class Seen:
    """What a judge is shown of a machine that runs on ``here``, and that ``there`` is to have."""

    def __init__(self) -> None:
        self.world = World(Weather(Random(1)))
        self.judge = Judge(self.world)
        self.here, self.there = (
            SimulatedVmm(self.world, host, SPEC, pid=1) for host in ("host-1", "host-2")
        )
        self.judge.created(self.here)
        self.writes(reg.started("m", "host-1", None))
        self.runs(self.here)

    def writes(self, record: reg.RegisterRecord) -> None:
        self.record = record
        self.judge.stored(Stored(subjects.register("m"), record.epoch, 0, reg.encode(record), {}))

    def runs(self, vmm: SimulatedVmm) -> None:
        self.judge.runs(vmm, self.record.epoch)
        vmm.run(self.record.epoch)
        self.world.loop.run_until(lambda: False, self.world.loop.time() + 1.0)

    def stages(self) -> None:
        """Stun it here, and load it there."""
        self.here.pause()
        self.judge.paused(self.here)
        self.judge.created(self.there)
        self.there.steps, self.there.memory = self.here.steps, list(self.here.memory)
        self.there.state = VmmState.LOADED

    def dies(self, vmm: SimulatedVmm) -> None:
        vmm.alive = False
        self.judge.died(vmm, "killed")

    def tells(self, event: Event, migration: str, lane: Lane = Lane.OPERATOR) -> None:
        """An event of the migration is stored."""
        writer = LaneWriter(
            HostClock(self.world, "h"), lane, event.TYPE, Scope.of_migration(migration, "m")
        )
        sealed = writer.seal(event)
        self.judge.stored(Stored(sealed.subject, 1, 0, sealed.data, {}))


REQUESTED = ev.MigrationRequested(machine="m", destination="host-2", limits=ev.Limits())
ENDED = ev.MigrationEnded(outcome=ev.Outcome.ABORTED, reason=ev.AbortReason.CANCELLED)
ORDERED = ev.RunOrdered(target="host-1", requested_by="ada@desk")


@pytest.mark.parametrize(
    ("told", "is_legal"),
    [
        ((REQUESTED, ORDERED), True),
        ((REQUESTED,), False),
        ((REQUESTED, ORDERED, ENDED), False),
        ((REQUESTED, ENDED, ORDERED), False),
    ],
)
def test_a_stale_image_runs_by_an_order_that_still_stands(
    told: tuple[Event, ...], is_legal: bool
) -> None:
    seen = Seen()
    seen.stages()
    seen.writes(reg.moved(seen.record, "host-2", "a"))
    seen.runs(seen.there)
    seen.dies(seen.there)
    for event in told:
        seen.tells(event, "a")
    seen.writes(reg.overruled(seen.record, "host-1", "a"))
    seen.runs(seen.here)
    assert [violation[:2] for violation in seen.judge.violations] == ["I3"] * (not is_legal)


@pytest.mark.parametrize("is_said", [True, False])
def test_what_was_staged_is_freed_only_while_the_source_may_have_run(is_said: bool) -> None:
    """It took the machine back, and died: who can know that it had not run, must keep it."""
    seen = Seen()
    seen.tells(REQUESTED, "a")
    seen.stages()
    seen.writes(reg.taken_back(seen.record, "a"))
    seen.dies(seen.here)
    if is_said:
        seen.tells(mev.MachineFailed(message="the VMM is dead"), "a", Lane.SOURCE)
    seen.there.alive = False
    seen.judge.ended(seen.there)
    assert [violation[:2] for violation in seen.judge.violations] == ["I2"] * is_said


def test_an_order_excuses_one_run() -> None:
    seen = Seen()
    seen.tells(REQUESTED, "a")
    seen.tells(ORDERED, "a")
    seen.here.pause()
    seen.judge.paused(seen.here)
    seen.writes(reg.taken_back(seen.record, "a"))
    seen.runs(seen.here)
    seen.stages()
    seen.writes(reg.moved(seen.record, "host-2", "b"))
    seen.runs(seen.there)
    seen.dies(seen.there)
    seen.writes(reg.overruled(seen.record, "host-1", "b"))
    seen.runs(seen.here)
    assert [violation[:2] for violation in seen.judge.violations] == ["I3"]


@pytest.mark.parametrize("is_left", [True, False])
def test_a_machine_is_written_off_only_if_it_is_lost(is_left: bool) -> None:
    seen = Seen()
    seen.stages()
    seen.dies(seen.here)
    if not is_left:
        seen.dies(seen.there)
    lost = reg.lost(seen.record, "m", "a", seen.record.epoch)
    assert lost is not None
    seen.writes(lost)
    assert [violation[:2] for violation in seen.judge.violations] == ["I2"] * is_left


@pytest.mark.parametrize(("times", "is_legal"), [(1, True), (2, False)])
def test_a_machine_that_was_taken_back_runs_in_the_epoch_before_at_the_least(
    times: int, is_legal: bool
) -> None:
    seen = Seen()
    seen.judge.started.add("m")
    for _ in range(times):
        seen.writes(reg.taken_back(seen.record, "a"))
    seen.judge.close()
    assert bool(seen.judge.violations) is not is_legal


def an_order_that_comes_late() -> CalmCluster:
    """Seed 2517: a machine died at its new host, before the old one heard that it ran there. It was
    stopped, and started anew on a third. Then the old one, in doubt ever since, was ordered to run
    its image, and did.
    """
    calm = CalmCluster(hosts=3)
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    migration = calm.migrate("host-2")
    calm.until(lambda: calm.judge.registers["m"].value is reg.RegisterValue.MOVED)
    there = calm.place("host-2").host
    there.kill(there.vmms["m"], "killed")
    calm.until(calm.has_told(ev.DoubtRaised))
    calm.stop(host="host-2")
    calm.until(calm.has_told(mev.MachineStopped))
    calm.start("host-3", start="again")
    calm.until(calm.has_told(mev.MachineStarted, times=2))
    order = ev.RunOrdered(target="host-1", requested_by="ada@desk")
    for _ in range(2):  # the first may only show it what the register holds
        to = Address("host-1", Service.SOURCE_HOST)
        calm.put(Scope.of_migration(migration, "m"), order, to)
        calm.rest()
    calm.judge.close()
    calm.world.bury()
    return calm


def test_an_order_to_run_what_is_older_than_the_register(monkeypatch: pytest.MonkeyPatch) -> None:
    calm = an_order_that_comes_late()
    assert calm.judge.violations == []
    assert an_order_that_comes_late.__doc__
    check_story(calm, "order-that-comes-late", an_order_that_comes_late.__doc__)
    monkeypatch.setattr(reg, "has_gone_on", never)
    violations = an_order_that_comes_late().judge.violations
    assert any(violation.startswith("I1") for violation in violations), violations


def test_a_seat_that_is_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def sit_down(occupancy: Occupancy, machine: str, reservation: str, why: str) -> tuple[Fate]:
        occupancy._seats[machine] = reservation
        return (ReservationUsed(reservation=reservation),)

    monkeypatch.setattr(Occupancy, "_seat", sit_down)
    assert catches("a reservation of", range(1, 10))


def violations_of_two_reservations(first: Placement, second: Placement) -> list[str]:
    """Two lines of one ledger: what a judge says who has seen nothing else."""
    judge = Judge(World(Weather(Random(1))))
    gpu = GpuInventory(index=0, model="H100-80GB", memory_bytes=80 << 30, simulated=True)
    judge.pictures["h"] = ledger.HostPicture(host="h", announced=True, gpus=(gpu,))
    for sequence, placement in enumerate((first, second), start=1):
        entry = ledger.LedgerEntry(
            kind=ledger.EntryKind.HELD,
            reservation=f"r{sequence}",
            machine=f"m{sequence}",
            host="h",
            placements=(placement,),
        )
        judge.stored(Stored(subjects.ledger("h"), sequence, 0, ledger.encode_entry(entry), {}))
    return judge.violations


def placement(start: int, mode: GpuMode = GpuMode.MIG, gib: int = 10) -> Placement:
    return Placement(
        gpu=0, profile="p", framebuffer_bytes=gib << 30, mode=mode, start=start, slots=1
    )


@pytest.mark.parametrize(
    ("second", "overlaps"),
    [
        (placement(1), False),
        (placement(0), True),
        (placement(1, GpuMode.EQUAL), True),
        (placement(1, gib=75), True),
    ],
)
def test_two_machines_in_one_place_of_a_gpu(second: Placement, overlaps: bool) -> None:
    violations = violations_of_two_reservations(placement(0), second)
    assert [what.startswith("reservations overlap") for what in violations] == [True] * overlaps


def test_a_line_in_the_ledger_of_another_host() -> None:
    """Everybody passes over it, the judge too."""
    judge = Judge(World(Weather(Random(1))))
    kind, place = ledger.EntryKind.HELD, (placement(0),)
    entry = ledger.LedgerEntry(kind=kind, reservation="r", machine="m", host="h", placements=place)
    judge.stored(Stored(subjects.ledger("other"), 1, 0, ledger.encode_entry(entry), {}))
    assert judge.violations == ["a line of host h stands in another's ledger"]
    assert not judge.pictures


def never(_record: reg.RegisterRecord | None, _migration: str, _epoch: int) -> bool:
    return False
