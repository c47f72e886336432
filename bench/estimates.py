"""How good are the estimates? Moves guests to and fro, and sets each stun beside its estimate.

``python bench/estimates.py [MOVES] [--quick] [--json FILE]``: so many moves of each guest, each of
which has an estimate made before it, on a cluster of real processes; prints all figures by guest,
and the table of docs/performance.md. Without MOVES 232 moves in all: some twenty minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import ending
import records

from godwit.cli.machine import ask_machine, make_spec, start_machine, stop_machine
from godwit.cli.migration import request_migration
from godwit.cli.progress import SilentDisplay, follow
from godwit.guests.corpus import sentences
from godwit.local_cluster.cluster import Cluster
from godwit.pictures.estimates import ComparedMove, compared_moves
from godwit.runtime.event_log import EventLog
from godwit.runtime.nats_log import NatsLog
from godwit_protocol import subjects
from godwit_protocol.estimation.admission import AdmissionPolicy
from godwit_protocol.events.estimate import EstimateCompared
from godwit_protocol.events.migration import Limits, Outcome, Verify

MOVES = 29
LIMITS = Limits(stun_limit_ns=2_000_000_000)
TOLD_S_MAX = 30.0
BETWEEN_S = 0.5
HOSTS = ("host-1", "host-2")
ONE_THREAD = ("OPENBLAS_NUM_THREADS=1", "OMP_NUM_THREADS=1")
MEMHOG = "godwit.guests.memhog:Memhog"


def memhog(rate: int, pattern: str, *more: str) -> tuple[str, str, tuple[str, ...]]:
    settings = (f"GODWIT_MEMHOG_RATE={rate}", f"GODWIT_MEMHOG_PATTERN={pattern}")
    return MEMHOG, "256MiB", (*settings, "GODWIT_MEMHOG_FILL=1", *more)


GUESTS = {
    "memhog-idle": memhog(0, "uniform"),
    "memhog-10-uniform": memhog(10_000_000, "uniform"),
    "memhog-50-hot": memhog(50_000_000, "hot"),
    "memhog-100-sequential": memhog(100_000_000, "sequential"),
    "memhog-200-uniform": memhog(200_000_000, "uniform"),
    "memhog-500-hot": memhog(500_000_000, "hot"),
    "embedder": ("godwit.guests.embedder:Embedder", "256MiB", ONE_THREAD),
    "trainer": (
        "godwit.guests.trainer:Trainer",
        "256MiB",
        (*ONE_THREAD, "GODWIT_TRAINER_HIDDEN=2048"),
    ),
}


async def begin(log: EventLog, name: str) -> None:
    guest, ram, env = GUESTS[name]
    vgpus = ("H100XM-4C",) if name == "embedder" else ()
    await start_machine(log, make_spec(name, guest, ram=ram, env=env, vgpus=vgpus), HOSTS[0])
    if name == "embedder":
        request = json.dumps({"op": "add", "text": sentences()[:16]}).encode()
        await ask_machine(log, name, request, 60)
    await told(log, subjects.machine_history(name))


async def told(log: EventLog, subject: str) -> None:
    """Until there is anything of ``subject``."""
    async with asyncio.timeout(TOLD_S_MAX):
        kept = log.tail([subject])
        async for _ in kept:
            break
        await kept.aclose()


async def move(log: EventLog, name: str, number: int) -> None:
    to = HOSTS[(number + 1) % 2]
    warn = AdmissionPolicy.WARN
    migration = await request_migration(log, name, to, LIMITS, Verify.OFF, warn)
    summary = await follow(log, migration, SilentDisplay(), wait_s=120)
    if summary.outcome is not Outcome.COMPLETED:
        print(f"{name}: {summary.reason} {summary.message}", file=sys.stderr)
    await asyncio.sleep(BETWEEN_S)


async def compared(log: EventLog) -> list[ComparedMove]:
    """All moves but the first, which is made before any link's rate is known. The tracker compares
    one soon after its end.
    """
    await told(log, subjects.migration("*", "*", EstimateCompared.TYPE))
    return await compared_moves(log)


def row(name: str, moves: Sequence[ComparedMove]) -> dict[str, float | str]:
    stuns = [each.compared.stun_ns / 1e6 for each in moves]
    medians = [each.compared.estimate.stun_ns.median / 1e6 for each in moves]
    bounds = [each.compared.estimate.stun_ns.bound / 1e6 for each in moves]
    errors = [abs(said - was) / was for said, was in zip(medians, stuns, strict=True)]
    totals = [each.compared.total_ns / 1e6 for each in moves]
    expected = [each.compared.estimate.total_ns.median / 1e6 for each in moves]
    return {
        "guest": name,
        "moves": len(moves),
        "within_bound": sum(each.compared.within for each in moves) / len(moves),
        "stun_ms": statistics.median(stuns),
        "estimated_ms": statistics.median(medians),
        "of_medians": statistics.median(medians) / statistics.median(stuns) - 1,
        "median_error": statistics.median(errors),
        "bound_ms": statistics.median(bounds),
        "stun_ms_max": max(stuns),
        "total_ms": statistics.median(totals),
        "total_estimated_ms": statistics.median(expected),
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("moves", type=int, nargs="?", default=MOVES)
    parser.add_argument("--quick", action="store_true", help="two moves of one guest")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    guests, moves = ([*GUESTS][:1], 2) if given.quick else ([*GUESTS], given.moves)
    often = {"GODWIT_SAMPLING_PERIOD": "3s"}
    with tempfile.TemporaryDirectory() as directory:
        async with await Cluster.start(Path(directory), hosts=2, environ=often) as cluster:
            log = await NatsLog.connect(cluster.nats_url, name="bench")
            for name in guests:
                await begin(log, name)
                for number in range(moves):
                    await move(log, name, number)
                await stop_machine(log, name)
            found = await compared(log)
            await log.close()
    by_guest = {name: [each for each in found if each.machine == name] for name in guests}
    rows = [row(name, moved) for name, moved in by_guest.items() if moved]
    rows.append(row("all", found))
    keys = [key for key in rows[0] if key != "guest"]
    print(f"{'':24}" + "".join(f"{key:>20}" for key in keys))
    for each in rows:
        print(f"{each['guest']:24}" + "".join(f"{each[key]:>20.4g}" for key in keys))
    print()
    each_move = [each.as_json() for each in found]
    records.tell_text("bench/estimates.py", table(rows), given.json, guests=rows, moves=each_move)


def table(rows: Sequence[dict[str, float | str]]) -> str:
    """The record as docs/performance.md holds it, the guests and all of them together."""
    lines = [
        "| guest | moves | within the bound | stun, ms | estimated, ms"
        " | of the medians | error of one, median |",
        "|---" * 7 + "|",
    ]
    for each in rows:
        lines.append(
            "| {guest} | {moves} | {within_bound:.1%} | {stun_ms:.1f} | {estimated_ms:.1f}"
            " | {of_medians:+.1%} | {median_error:.1%} |".format(**each)
        )
    return "\n".join(lines)


if __name__ == "__main__":
    ending.run(main())
