"""From windows and finished moves to estimates: what hosts say goes in, a decision comes out."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import msgspec
import pytest

from godwit.runtime.lane import Scope
from godwit_protocol import subjects
from godwit_protocol.convergence import Decision, DecisionReason
from godwit_protocol.estimation import history as hist
from godwit_protocol.estimation.admission import Admission, AdmissionPolicy
from godwit_protocol.estimation.forecast import Basis, Lacking
from godwit_protocol.estimation.history import DirtyWindow, LinkHistory, MachineHistory
from godwit_protocol.events import Lane
from godwit_protocol.events import migration as ev
from godwit_protocol.events.estimate import EstimateCompared, EstimateMade
from godwit_protocol.events.migration import AbortReason, Limits, Outcome
from histories import MIB, MS, link, window

from .service_processes import StartService
from .world import EVENT_S_MAX, World

ROUND_BYTES = 64 * MIB
BYTES_PER_SECOND = 1024 * MIB


async def sampled(world: World, machine: str, host: str, *written_bytes: int) -> MachineHistory:
    """A host has looked at what a machine writes, and the tracker keeps it."""
    looked = msgspec.structs.replace(
        window(*written_bytes, resident_bytes=ROUND_BYTES),
        machine=machine,
        host=host,
        taken_wall_ns=time.time_ns(),
    )
    subject = subjects.telemetry("machine", machine, "writes")
    async with asyncio.timeout(EVENT_S_MAX):
        while True:  # telemetry may be lost while the tracker is not listening yet
            await world.log.announce(subject, hist.encode(looked))
            kept = await world.log.last(subjects.machine_history(machine))
            if kept is not None:
                history = hist.decode_machine(kept.data)
                if history.windows[-1] == looked:
                    return history


async def request(
    world: World,
    machine: str,
    destination: str,
    stun_limit_ns: int = 500 * MS,
    admission: AdmissionPolicy | None = None,
) -> Scope:
    scope = Scope.of_migration(world.new_id(), machine)
    requested = ev.MigrationRequested(
        machine=machine,
        destination=destination,
        limits=Limits(stun_limit_ns=stun_limit_ns),
        admission=admission,
    )
    await world.write(Lane.OPERATOR, "test", scope, requested)
    return scope


async def carry(world: World, scope: Scope, source: str, destination: str, stun_ns: int) -> None:
    """The hosts' part: one round of ``ROUND_BYTES``, and a stun without pages."""
    async with world.watch(scope) as watch:
        await watch.until(ev.PreparationOrdered)
        await world.prepare(scope, destination)
        await watch.until(ev.MigrationStarted)
    await world.write(Lane.SOURCE, source, scope, round_completed())
    stopped_ns = time.monotonic_ns()
    stunned = ev.MachineStunned(stopped_ns=stopped_ns, checkpoint_bytes=1)
    await world.write(Lane.SOURCE, source, scope, stunned)
    sent = ev.FinalCopySent(pages=0, sent_bytes=0, scan_ns=0, sent_ns=stopped_ns + 1)
    await world.write(Lane.SOURCE, source, scope, sent)
    await world.activate(scope, source, destination, first_step_ns=stopped_ns + stun_ns)
    await world.write(Lane.SOURCE, source, scope, ev.MachineReleased())


def round_completed() -> ev.RoundCompleted:
    figures = ev.RoundFigures(
        round=1,
        pages=ROUND_BYTES // 4096,
        sent_bytes=ROUND_BYTES,
        wire_bytes=ROUND_BYTES,
        duration_ns=ROUND_BYTES * 10**9 // BYTES_PER_SECOND,
        scan_ns=0,
        remaining_bytes=0,
    )
    return ev.RoundCompleted(
        figures=figures,
        bandwidth_bytes_per_second=BYTES_PER_SECOND,
        dirty_bytes_per_second=0,
        predicted_stun_ns=1,
        stun_limit_ns=1,
        decision=Decision.STUN,
        reason=DecisionReason.SMALL_ENOUGH,
    )


async def moved(world: World, machine: str, hosts: tuple[str, str], stun_ns: int) -> EstimateMade:
    scope = await request(world, machine, hosts[1])
    await carry(world, scope, *hosts, stun_ns)
    async with world.watch(scope) as watch:
        return await watch.until(EstimateMade)


async def until_link_is_known(world: World, source: str, destination: str) -> None:
    async with asyncio.timeout(EVENT_S_MAX):
        kept = world.log.tail([subjects.link_history(source, destination)])
        async for _ in kept:
            break
        await kept.aclose()


async def test_without_a_history_a_machine_moves_and_the_log_says_why(world: World) -> None:
    source, destination = await world.host(), await world.host()
    machine = await world.machine(source)
    made = await moved(world, machine, (source, destination), stun_ns=20 * MS)
    assert (made.admission, made.estimate) == (Admission.NOT_ESTIMATED, None)
    assert made.lacking is Lacking.NO_WINDOW
    assert "not been sampled" in made.message


async def test_a_move_is_estimated_from_the_moves_before_it_and_compared(world: World) -> None:
    source, destination = await world.host(), await world.host()
    other = await world.machine(source)
    await sampled(world, other, source, 0, 0)
    await moved(world, other, (source, destination), stun_ns=20 * MS)
    await until_link_is_known(world, source, destination)
    machine = await world.machine(source)
    await sampled(world, machine, source, 0, 0)
    scope = await request(world, machine, destination)
    await carry(world, scope, source, destination, stun_ns=30 * MS)
    async with world.watch(scope) as watch:
        compared = await watch.until(EstimateCompared)
        made = await watch.until(EstimateMade)
    assert made.estimate == compared.estimate
    assert made.admission is Admission.ADMITTED
    assert compared.estimate.basis is Basis.SAME_LINK
    assert compared.estimate.stun_ns.median == pytest.approx(20 * MS, abs=MS)
    assert compared.estimate.sent_bytes.median == ROUND_BYTES
    assert (compared.stun_ns, compared.within) == (30 * MS, True)
    assert (compared.rounds, compared.sent_bytes) == (1, ROUND_BYTES)


async def test_a_bound_over_the_limit_is_refused_before_anything_is_claimed(world: World) -> None:
    source, destination = await world.host(), await world.host()
    machine = await world.machine(source)
    await sampled(world, machine, source, 0, 0)
    other = await world.machine(source)
    await moved(world, other, (source, destination), stun_ns=200 * MS)
    await until_link_is_known(world, source, destination)
    refused = await request(world, machine, destination, stun_limit_ns=100 * MS)
    async with world.watch(refused) as watch:
        ended = await watch.until(ev.MigrationEnded)
        made = await watch.until(EstimateMade)
    assert (ended.outcome, ended.reason) == (Outcome.ABORTED, AbortReason.STUN_BOUND_OVER_LIMIT)
    assert (made.admission, ended.message) == (Admission.REFUSED, made.message)
    assert made.estimate is not None
    assert made.estimate.stun_ns.bound > made.stun_limit_ns == 100 * MS
    assert await world.claimed_by(machine) == ""
    warned = await request(world, machine, destination, 100 * MS, AdmissionPolicy.WARN)
    async with world.watch(warned) as watch:
        assert (await watch.until(EstimateMade)).admission is Admission.WARNED
        await watch.until(ev.PreparationOrdered)
        await world.cancel(warned)
        await watch.until(ev.MigrationEnded)


async def test_a_tracker_that_starts_again_goes_on_with_what_it_kept(
    own_world: World, start_service: StartService
) -> None:
    world = own_world
    tracker = start_service("gpu_state_tracker")
    for number in range(1, 3):
        kept = await sampled(world, "m", "h", number)
    tracker.kill()
    await forget_telemetry(world)
    tracker.restart()
    kept = await sampled(world, "m", "h", 3)
    assert [each.written_bytes for each in kept.windows] == [(1,), (2,), (3,)]


async def test_what_a_link_was_seen_to_carry_outlasts_the_migrations_that_told_it(
    own_world: World, start_service: StartService
) -> None:
    """They have been archived: the events tell nothing of them any more."""
    kept = LinkHistory(source="a", destination="b")
    for number in range(3):
        kept = kept.with_sample(link(1e9, migration=f"archived-{number}"))
    subject = subjects.link_history("a", "b")
    before = await own_world.log.append(subject, hist.encode(kept), message_id="kept")
    start_service("gpu_state_tracker")
    async with asyncio.timeout(20), aclosing(own_world.log.tail([subject])) as found:
        async for stored in found:
            if stored.sequence > before:
                break
    assert hist.decode_link(stored.data) == kept


async def forget_telemetry(world: World) -> None:
    """Its stream keeps ten minutes; the tracker may have been down for longer."""
    from godwit.runtime import jetstream_api as api

    purged = await world.log.ask_api(f"STREAM.PURGE.{subjects.TELEMETRY}", {}, api.Reply, 2.0)
    assert purged.error is None


async def test_what_is_no_window_is_passed_over(world: World, unique_name: str) -> None:
    subject = subjects.telemetry("machine", unique_name, "writes")
    await world.log.announce(subject, b"\x01")
    another_s: DirtyWindow = window(1)
    await world.log.announce(subject, hist.encode(another_s))
    kept = await sampled(world, unique_name, "h", 7)
    assert [each.written_bytes for each in kept.windows] == [(7,)]
