"""What of a machine crosses the wire when its destination already runs the same model?

Two machines with the guest ``embedder`` (all-MiniLM-L6-v2, 90 MB of weights) run on a host each.
One moves to the other's, which holds the model already, and back to its own, which then holds
nothing. Each turn compares the bytes of the first of these moves with the machine's size, and the
time of its first round with that of the second's.

    python bench/content.py [--turns 7] [--quick] [--json FILE]
"""

from __future__ import annotations

import asyncio

import records
from moves import Lab, Move, lab

from godwit.cli.machine import make_spec
from godwit_protocol.machine import PAGE_BYTES

EMBEDDER = "godwit.guests.embedder:Embedder"
ENV = ("OPENBLAS_NUM_THREADS=1",)
MOVING, RESIDENT = "moving", "resident"


async def measure(there: Lab, turns: int) -> records.Record:
    """``MOVING`` goes to and fro; the other stays on the second host."""
    specs = [
        make_spec(name, EMBEDDER, ram="16MiB", vgpus=["H100XM-4C"], env=ENV)
        for name in (MOVING, RESIDENT)
    ]
    async with there.machine(specs[0], 0), there.machine(specs[1], 1):
        for spec in specs:
            await there.ask(spec.name, {"op": "add", "text": f"a sentence of {spec.name}"})
        held, sent = [], []
        for _ in range(turns):
            held.append(await there.move(MOVING))
            sent.append(await there.move(MOVING))
    return records.Record("bench/content.py", rows(held, sent), turns)


def rows(held: list[Move], sent: list[Move]) -> list[records.Row]:
    sizes = [move.summary.rounds[0].figures.pages * PAGE_BYTES / 2**20 for move in held]
    return [
        records.Row(
            "bytes on the wire, the destination runs the same model",
            "MiB",
            [wire_mib(move) for move in held],
            0.1,
            peer="the machine's size",
            theirs=sizes,
        ),
        records.Row(
            "the same, it runs nothing",
            "MiB",
            [wire_mib(move) for move in sent],
            peer="the machine's size",
            theirs=sizes,
        ),
        records.Row(
            "first round, the destination runs the same model",
            "ms",
            [move.summary.rounds[0].figures.duration_ns / 1e6 for move in held],
            peer="it runs nothing",
            theirs=[move.summary.rounds[0].figures.duration_ns / 1e6 for move in sent],
        ),
    ]


def wire_mib(move: Move) -> float:
    rounds = [done.figures.wire_bytes for done in move.summary.rounds]
    return (sum(rounds) + move.summary.final_bytes) / 2**20


async def main() -> None:
    given = records.given(__doc__, size_mib=0, quick_mib=0, turns=7)
    async with lab() as there:
        record = await measure(there, given.turns)
    records.tell(record, given.json)


if __name__ == "__main__":
    asyncio.run(main())
