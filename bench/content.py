"""What does a model cost that the destination already runs? Two real hosts, whole migrations.

A machine with the guest ``embedder`` (all-MiniLM-L6-v2, 90 MB of weights) moves to a host that runs
another with the same model, and, turn by turn, to one that runs none: the first round's bytes on
the wire against the machine's size, and its time. With ``--off`` the store is switched off on all
hosts: what both cost without it.

    python bench/content.py [--repeats 5] [--off] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from godwit.local_cluster.cluster import Cluster
from godwit.runtime.nats_log import NatsLog
from godwit_protocol.events.migration import Outcome, RoundFigures
from godwit_protocol.machine import PAGE_BYTES
from operations import Operations

GUEST = "godwit.guests.embedder:Embedder"
ENV = ("OPENBLAS_NUM_THREADS=1",)


@dataclass(frozen=True)
class Result:
    case: str
    machine_bytes: int
    wire_bytes: list[int]
    wire_per_machine: float
    round_ms: list[float]
    median_round_ms: float
    median_content_ms: float


async def measure(repeats: int) -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="godwit-bench-") as directory:
        async with await Cluster.start(Path(directory), hosts=2, gpus="H100-80GB:1") as cluster:
            log = await NatsLog.connect(cluster.nats_url, name="bench")
            try:
                return await _measured(Operations(cluster, log), repeats)
            finally:
                await log.close()


async def _measured(operations: Operations, repeats: int) -> list[Result]:
    """``moving`` goes there and back: ``resident`` runs on the second host only."""
    for name, host in (("moving", "host-1"), ("resident", "host-2")):
        await operations.start(name, GUEST, host, vgpus=["H100XM-4C"], env=ENV)
        await operations.ask(name, {"op": "add", "text": f"a sentence of {name}"})
    rounds: dict[str, list[RoundFigures]] = {"it runs the model": [], "it runs nothing": []}
    for _ in range(repeats):
        for case, host in zip(rounds, ("host-2", "host-1"), strict=True):
            summary = await operations.migrate("moving", host)
            assert summary.outcome is Outcome.COMPLETED, summary
            rounds[case].append(summary.rounds[0].figures)
    return [_result(case, figures) for case, figures in rounds.items()]


def _result(case: str, figures: list[RoundFigures]) -> Result:
    machine_bytes = figures[0].pages * PAGE_BYTES
    wire = [done.wire_bytes for done in figures]
    took_ms = [round(done.duration_ns / 1e6, 1) for done in figures]
    return Result(
        case,
        machine_bytes,
        wire,
        round(statistics.median(wire) / machine_bytes, 4),
        took_ms,
        statistics.median(took_ms),
        round(statistics.median(done.content_ns for done in figures) / 1e6, 1),
    )


def print_table(results: list[Result]) -> None:
    print(f"{'destination':20} {'machine MiB':>11} {'wire MiB':>9} {'ratio':>7} {'round ms':>9}")
    for result in results:
        print(
            f"{result.case:20} {result.machine_bytes / 2**20:11.1f}"
            f" {statistics.median(result.wire_bytes) / 2**20:9.2f} {result.wire_per_machine:7.4f}"
            f" {result.median_round_ms:9.1f}  (offering {result.median_content_ms} ms,"
            f" spread {min(result.round_ms)} to {max(result.round_ms)})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--off", action="store_true", help="without the content store")
    parser.add_argument("--json", type=Path, help="also write the results there")
    arguments = parser.parse_args()
    if arguments.off:
        os.environ["GODWIT_CONTENT_STORE"] = "off"
    results = asyncio.run(measure(arguments.repeats))
    print_table(results)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(each) for each in results], indent=2) + "\n")


if __name__ == "__main__":
    main()
