"""Migrations that never were, told as their events: always the same ones, for pictures."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from godwit_protocol.convergence import Decision, DecisionReason
from godwit_protocol.events import CHAIN_START, Envelope, Event, Lane, Recorded
from godwit_protocol.events import migration as ev
from godwit_protocol.machine import MachineSpec

START_NS = 1_800_000_000_000_000_000
SECOND_NS = 1_000_000_000
MIB = 2**20
LINK_BYTES_PER_SECOND = 256.0 * MIB


def told(
    migration: str, machine: str, event: Event, *, at_ns: int, lane: Lane = Lane.SOURCE
) -> Recorded:
    envelope = Envelope(
        id=f"{migration}-{event.TYPE}-{at_ns}",
        type=event.TYPE,
        migration=migration,
        machine=machine,
        lane=lane,
        lane_sequence=1,
        host="host-1",
        wall_ns=at_ns,
        monotonic_ns=at_ns,
        boot="boot",
        prev_hash=CHAIN_START,
        body=msgspec.Raw(b""),
    )
    return Recorded(envelope, event)


def migration_id(number: int) -> str:
    return f"018f0000-0000-7000-8000-{number * 7919 % 10**8:012d}"


def move(number: int, *, rounds: int = 3, ends: bool = False) -> Iterator[Recorded]:
    """Move ``number``, requested a second after the one before."""
    migration, machine = migration_id(number), f"trainer-{number}"
    at_ns = START_NS + number * SECOND_NS

    def then(event: Event, lane: Lane = Lane.SOURCE) -> Recorded:
        return told(migration, machine, event, at_ns=at_ns, lane=lane)

    limits = ev.Limits()
    requested = ev.MigrationRequested(machine=machine, destination="host-2", limits=limits)
    yield then(requested, Lane.OPERATOR)
    spec = MachineSpec(name=machine, guest="some.module:Guest", ram_bytes=2**30)
    ordered = ev.PreparationOrdered(
        spec=spec,
        source="host-1",
        destination="host-2",
        register_epoch=1,
        limits=limits,
        verify=ev.Verify.OFF,
    )
    yield then(ordered, Lane.COORDINATOR)
    yield then(ev.PrecopyStarted(connections=2, resident_bytes=1024 * MIB, populate_ns=1))
    for round_ in range(1, rounds + 1):
        done = completed(round_)
        at_ns += done.figures.duration_ns
        yield then(done)
    if not ends:
        return
    at_ns += SECOND_NS // 10
    yield then(ev.StunIntended(predicted_stun_ns=40_000_000, remaining_bytes=4 * MIB))
    yield then(ev.MachineStunned(stopped_ns=at_ns, checkpoint_bytes=99))
    first_step_ns = at_ns + 38_500_000
    activated = ev.MachineActivated(
        register_sequence=2, owned_ns=first_step_ns - 1, first_step_ns=first_step_ns
    )
    yield then(activated, Lane.DESTINATION)
    at_ns += SECOND_NS
    yield then(ev.MigrationEnded(outcome=ev.Outcome.COMPLETED), Lane.COORDINATOR)


def completed(round_: int) -> ev.RoundCompleted:
    """Each round takes and sends a quarter of the one before; the framebuffer is written more."""
    sent = 1024 * MIB >> (2 * (round_ - 1))
    figures = ev.RoundFigures(
        round=round_,
        pages=sent // 4096,
        sent_bytes=sent,
        wire_bytes=sent,
        duration_ns=int(sent / LINK_BYTES_PER_SECOND * 1e9),
        scan_ns=1_000_000,
        remaining_bytes=sent // 4,
        bytes_by_region={
            "ram": sent // 4 >> round_,
            "vgpu0.framebuffer": sent - (sent // 4 >> round_),
        },
    )
    return ev.RoundCompleted(
        figures=figures,
        bandwidth_bytes_per_second=LINK_BYTES_PER_SECOND,
        dirty_bytes_per_second=LINK_BYTES_PER_SECOND / 4,
        predicted_stun_ns=int(figures.remaining_bytes / LINK_BYTES_PER_SECOND * 1e9),
        stun_limit_ns=500_000_000,
        decision=Decision.ANOTHER_ROUND,
        reason=DecisionReason.STILL_SHRINKING,
        stun_bound_ns=int(figures.remaining_bytes / LINK_BYTES_PER_SECOND * 1e9),
    )
