"""Machines, migrations and GPUs as the commands show them, from logs as services write them."""

import msgspec
import pytest
from told_log import Teller

from godwit.catalogue.loading import load
from godwit.pictures import hosts as host_pictures
from godwit.pictures import machines as machine_pictures
from godwit.pictures import migrations as migration_pictures
from godwit.pictures import narrative
from godwit.pictures.machines import MachineState
from godwit.runtime.lane import Scope
from godwit_protocol import ledger, subjects
from godwit_protocol import register as reg
from godwit_protocol.catalogue import GpuMode
from godwit_protocol.convergence import Decision, DecisionReason
from godwit_protocol.errors import (
    AbortedError,
    InDoubtError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
)
from godwit_protocol.events import Lane
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events import reservation as rev
from godwit_protocol.events.migration import AbortReason, Outcome
from godwit_protocol.facts import GpuTelemetry, HostTelemetry
from godwit_protocol.projections import MigrationSummary
from godwit_protocol.stored import Stored

MIGRATION_KEYS = {
    *("id", "machine", "source", "destination", "outcome", "reason", "message", "rounds"),
    *("resolve", "stun_ms", "stun_components_ms", "bytes_sent", "duration_s", "round_details"),
    "stun_error_ms",
    *("dirty_bytes_per_second_by_region", "bandwidth_limit_bytes_per_second"),
    *("bandwidth_changed_by", "verify"),
}


async def test_a_running_machine(teller: Teller, unique_name: str) -> None:
    await teller.start(unique_name, "host-1")
    picture = await machine_pictures.find_machine(teller.log, unique_name)
    assert picture.as_json() == {
        "name": unique_name,
        "host": "host-1",
        "state": "running",
        "epoch": 1,
        "regions": [
            {"name": "ram", "size_bytes": 2**26},
            {"name": "vgpu0.framebuffer", "size_bytes": 2**32},
        ],
        "guest": "some.module:Guest",
        "vgpus": ["H100XM-4C"],
        "tenant": "default",
        "migration": "",
        "failure": "",
    }


async def test_a_machine_is_where_the_register_says(teller: Teller, unique_name: str) -> None:
    await teller.start(unique_name, "host-1")
    moved = reg.moved(reg.started(unique_name, "host-1", None), "host-2", "some-migration")
    await teller.write_register(moved)
    picture = await machine_pictures.find_machine(teller.log, unique_name)
    assert (picture.host, picture.epoch, picture.state) == ("host-2", 2, MachineState.RUNNING)


async def test_a_claimed_machine_is_migrating_until_the_claim_is_free(
    teller: Teller, unique_name: str
) -> None:
    await teller.start(unique_name, "host-1")
    await teller.claim(unique_name, "some-migration")
    picture = await machine_pictures.find_machine(teller.log, unique_name)
    assert (picture.state, picture.migration) == (MachineState.MIGRATING, "some-migration")
    await teller.claim(unique_name, "")
    picture = await machine_pictures.find_machine(teller.log, unique_name)
    assert (picture.state, picture.migration) == (MachineState.RUNNING, "")


async def test_a_failed_machine_says_why(teller: Teller, unique_name: str) -> None:
    await teller.start(unique_name, "host-1")
    failed = mev.MachineFailed(message="the guest raised")
    await teller.tell(Lane.SOURCE, "host-1", Scope.of_machine(unique_name), failed)
    picture = await machine_pictures.find_machine(teller.log, unique_name)
    assert (picture.state, picture.failure) == (MachineState.FAILED, "the guest raised")


async def test_a_stopped_machine_is_not_live(teller: Teller, unique_name: str) -> None:
    await teller.start(unique_name, "host-1")
    await teller.write_register(reg.stopped(reg.started(unique_name, "host-1", None)))
    listed = {machine.name: machine for machine in await machine_pictures.all_machines(teller.log)}
    assert listed[unique_name].state is MachineState.STOPPED
    with pytest.raises(NotFoundError, match="is stopped"):
        await machine_pictures.find_live_machine(teller.log, unique_name)


async def test_a_migration_is_found_by_either_end_of_its_id(
    teller: Teller, unique_name: str
) -> None:
    migration = await teller.request(unique_name, "host-2")
    for part in (migration, migration[-8:], migration[-8:].upper(), migration[:30]):
        assert await migration_pictures.find_id(teller.log, part) == migration


async def test_an_id_that_says_too_little_is_refused(teller: Teller, unique_name: str) -> None:
    first = await teller.request(unique_name, "host-2")
    second = await teller.request(unique_name, "host-2")
    assert first[:6] == second[:6]
    with pytest.raises(InvalidInputError, match="does not say which"):
        await migration_pictures.find_id(teller.log, first[:6])
    with pytest.raises(InvalidInputError, match="does not say which"):
        await migration_pictures.find_id(teller.log, first[-2:])
    with pytest.raises(NotFoundError):
        await migration_pictures.find_id(teller.log, "ffffffffffff")


async def test_a_refused_migration_has_all_keys(teller: Teller, unique_name: str) -> None:
    migration = await teller.request(unique_name, "host-2")
    await teller.end(migration, unique_name, Outcome.ABORTED, AbortReason.ALREADY_MIGRATING)
    summary = await migration_pictures.find_migration(teller.log, migration)
    told = migration_pictures.as_json(summary)
    assert set(told) == MIGRATION_KEYS
    assert (told["outcome"], told["reason"]) == ("aborted", "already_migrating")
    assert (told["rounds"], told["bytes_sent"], told["stun_ms"]) == (0, 0, None)
    assert told["duration_s"] >= 0
    assert summary in await migration_pictures.all_migrations(teller.log)


@pytest.mark.parametrize(
    ("outcome", "reason", "kind"),
    [
        (Outcome.COMPLETED, AbortReason.NONE, None),
        (Outcome.RUNNING, AbortReason.NONE, None),
        (Outcome.ABORTED, AbortReason.CANCELLED, AbortedError),
        (Outcome.ABORTED, AbortReason.DEADLINE_PASSED, AbortedError),
        (Outcome.ABORTED, AbortReason.RESERVATION_REFUSED, RefusedError),
        (Outcome.ABORTED, AbortReason.ALREADY_THERE, RefusedError),
        (Outcome.IN_DOUBT, AbortReason.NONE, InDoubtError),
    ],
)
def test_each_outcome_is_an_error_of_its_own_kind(
    outcome: Outcome, reason: AbortReason, kind: type[Exception] | None
) -> None:
    summary = MigrationSummary(id="m", outcome=outcome, reason=reason)
    error = migration_pictures.error_of(summary)
    assert error is None if kind is None else type(error) is kind


@pytest.mark.parametrize("reason", [AbortReason.MACHINE_FAILED, AbortReason.SUPERSEDED])
def test_of_a_machine_that_may_be_dead_nobody_says_that_it_runs(reason: AbortReason) -> None:
    summary = MigrationSummary(id="x", machine="m", outcome=Outcome.ABORTED, reason=reason)
    error = migration_pictures.error_of(summary)
    assert error is not None
    assert error.hint == "see: godwit machine show m"
    told = narrative.sentence(ev.MigrationAbandoned(reason=reason, message="the VMM died"))
    assert "runs" not in told
    assert "the VMM died" in told


def round_of(number: int, **figures: int) -> ev.RoundCompleted:
    measured = {"sent_bytes": 1000, "wire_bytes": 1000, "duration_ns": 10_000, "scan_ns": 1}
    return ev.RoundCompleted(
        figures=ev.RoundFigures(
            **{"round": number, "pages": 1, "remaining_bytes": 0} | measured | figures
        ),
        bandwidth_bytes_per_second=1.0,
        dirty_bytes_per_second=0.0,
        predicted_stun_ns=1,
        stun_limit_ns=1,
        decision=Decision.STUN,
        reason=DecisionReason.SMALL_ENOUGH,
    )


def test_the_throughput_is_that_of_the_rounds() -> None:
    summary = MigrationSummary(id="m", rounds=(round_of(1), round_of(2)))
    assert migration_pictures.throughput_bytes_per_second(summary) == pytest.approx(1e8)
    assert migration_pictures.throughput_bytes_per_second(MigrationSummary(id="m")) == 0.0


def test_what_a_round_saved_is_told_in_bytes_and_milliseconds() -> None:
    done = round_of(1, scan_ns=4_000_000, hole_bytes=8192, waiting_bytes=4096, waiting_ns=1_500_000)
    (told,) = migration_pictures.as_json(MigrationSummary(id="m", rounds=(done,)))["round_details"]
    assert (told["hole_bytes"], told["scan_ms"]) == (8192, 4.0)
    assert (told["waiting_bytes"], told["waiting_ms"]) == (4096, 1.5)


async def test_health_is_shown_for_as_long_as_it_is_of_now(
    teller: Teller, unique_name: str
) -> None:
    gpu = mev.GpuInventory(index=0, model="H100-80GB", memory_bytes=80 * 2**30, simulated=False)
    await teller.announce(unique_name, gpu)
    hosts, _ = await host_pictures.Hosts.read(teller.log)
    an_hour_ahead_ns = 10**18 + 3600 * 10**9
    told = HostTelemetry(wall_ns=an_hour_ahead_ns, gpus=(GpuTelemetry(gpu=0, xids=()),))
    subject = subjects.telemetry("host", unique_name, "gpus")
    hosts.learn(Stored(subject, 0, 10**18, msgspec.msgpack.encode(told)))
    found = hosts.pictures(unique_name)
    for seconds, health in ((-5, "ok"), (0, "ok"), (20, "ok"), (21, ""), (3600, "")):
        (picture,) = hosts.gpus(found, load(), 10**18 + seconds * 10**9)
        assert picture.health == health
        assert (picture.telemetry is None) is (health == "")


async def test_what_sits_on_a_gpu(teller: Teller, unique_name: str) -> None:
    gpu = mev.GpuInventory(index=0, model="H100-80GB", memory_bytes=80 * 2**30, simulated=True)
    await teller.announce(unique_name, gpu)
    placement = rev.Placement(
        gpu=0,
        profile="H100XM-4C",
        framebuffer_bytes=4 * 2**30,
        mode=GpuMode.MIXED,
        start=3,
        slots=1,
    )
    for kind in (ledger.EntryKind.HELD, ledger.EntryKind.CONFIRMED):
        entry = ledger.LedgerEntry(
            kind=kind,
            reservation="r",
            machine="searcher",
            host=unique_name,
            placements=(placement,),
        )
        await teller.log.append(
            subjects.ledger(unique_name),
            ledger.encode_entry(entry),
            message_id=teller.clock.new_id(),
        )
    hosts, _ = await host_pictures.Hosts.read(teller.log)
    (picture,) = hosts.gpus(hosts.pictures(unique_name), load(), 0)
    assert picture.as_json() == {
        "host": unique_name,
        "gpu": 0,
        "model": "H100-80GB",
        "simulated": True,
        "mode": "mixed",
        "memory_bytes": 80 * 2**30,
        "free_bytes": 76 * 2**30,
        "fragmentation": picture.fragmentation,
        "health": None,
        "telemetry": None,
        "holds": [
            {
                "machine": "searcher",
                "profile": "H100XM-4C",
                "framebuffer_bytes": 4 * 2**30,
                "mode": "mixed",
                "start": 3,
                "slots": 1,
                "state": "confirmed",
                "reservation": "r",
            }
        ],
    }
