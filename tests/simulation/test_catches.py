"""The judge catches what is broken on purpose: a simulator that cannot fail proves nothing."""

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import pytest
from calm_cluster import CalmCluster, check_story

from godwit.gpu_state_tracker.occupancy import Fate, Occupancy
from godwit.proof.simulator.faults import Weather
from godwit.proof.simulator.judge import Judge
from godwit.proof.simulator.process import World
from godwit.proof.simulator.run import simulate
from godwit.proof.simulator.transfer import ProcessSession
from godwit.runtime.lane import Scope
from godwit_protocol import ledger, subjects
from godwit_protocol import register as reg
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events.machine import GpuInventory
from godwit_protocol.events.migration import GpuMode, Placement
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


def never(_record: reg.RegisterRecord | None, _migration: str, _epoch: int) -> bool:
    return False
