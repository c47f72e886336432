"""What of a machine crosses the wire when its destination already runs the same model?

Two machines with the guest ``embedder`` (all-MiniLM-L6-v2, 90 MB of weights) run on a host each.
One moves to the other's, which holds the model already, and back to its own, which then holds
nothing. Each turn compares the bytes of the first of these moves with the machine's size, and the
time of its first round with that of the second's. Then a memhog, of which the resident machine has
nothing, goes the same way: what offering in vain takes.

    python bench/content.py [--size-mib 1024] [--turns 7] [--quick] [--json FILE]
"""

from __future__ import annotations

import ending
import records
from moves import Lab, Move, lab

from godwit.cli.machine import make_spec
from godwit_protocol.machine import PAGE_BYTES

EMBEDDER = "godwit.guests.embedder:Embedder"
ENV = ("OPENBLAS_NUM_THREADS=1",)


async def measure(there: Lab, size_mib: int, turns: int) -> records.Record:
    """``size_mib``: of the memhog."""
    moving, resident = (
        make_spec(name, EMBEDDER, ram="16MiB", vgpus=["H100XM-4C"], env=ENV)
        for name in ("moving", "resident")
    )
    async with there.machine(resident, 1):
        await there.ask(resident.name, {"op": "add", "text": "a sentence of its own"})
        async with there.machine(moving):
            await there.ask(moving.name, {"op": "add", "text": "another sentence"})
            held, sent = await to_and_fro(there, moving.name, turns)
        async with there.memhog("foreign", f"{size_mib}MiB"):
            in_vain, unoffered = await to_and_fro(there, "foreign", turns)
    vain = f"first round of {size_mib} MiB of which it has nothing"
    found = [*rows(held, sent), first_rounds(vain, in_vain, unoffered)]
    return records.Record("bench/content.py", found, turns)


async def to_and_fro(there: Lab, name: str, turns: int) -> tuple[list[Move], list[Move]]:
    """Moves to the host with the resident machine, and back to the empty one."""
    moves = [await there.move(name) for _ in range(2 * turns)]
    return moves[::2], moves[1::2]


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
        first_rounds("first round, the destination runs the same model", held, sent),
    ]


def first_rounds(measure: str, ours: list[Move], empty: list[Move]) -> records.Row:
    """``empty``: to a destination that runs nothing."""
    took_ms, alone_ms = (
        [move.summary.rounds[0].figures.duration_ns / 1e6 for move in moves]
        for moves in (ours, empty)
    )
    return records.Row(measure, "ms", took_ms, peer="it runs nothing", theirs=alone_ms)


def wire_mib(move: Move) -> float:
    rounds = [done.figures.wire_bytes for done in move.summary.rounds]
    return (sum(rounds) + move.summary.final_bytes) / 2**20


async def main() -> None:
    given = records.given(__doc__, size_mib=1024, quick_mib=32, turns=7)
    async with lab() as there:
        record = await measure(there, given.size_mib, given.turns)
    records.tell(record, given.json)


if __name__ == "__main__":
    ending.run(main())
