"""How fast is pre-copy while the guest writes, and how fast is QEMU's own?

A guest that writes 200 MB/s anywhere in its memory is moved by Godwit, and one of the same size and
rate by QEMU under emulation, turn by turn. The rate is that of all bytes that went out until the
machine was stunned.

    python bench/writing_move.py [--size-mib 2048] [--turns 5] [--quick] [--json FILE]

QEMU's guest has no operating system and 32 bits, so both have 2 GiB.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from pathlib import Path

import records
from moves import Lab, lab
from peers import has, without
from qemu_peer import PROGRAM, Migrated, Writes, migrated

from godwit_protocol.events.migration import Limits, Verify

RATE = 200_000_000
LIMITS = Limits(stun_limit_ns=1_000_000_000)
NAME = "writer"
QEMU_STUN_MS = 300
"""QEMU's own default."""


async def measure(there: Lab, size_mib: int, turns: int, *, qemu: bool) -> records.Record:
    """``qemu``: whether it is to be measured too."""
    ours: list[float] = []
    theirs: list[Migrated] = []
    async with there.memhog(NAME, f"{size_mib}MiB", rate=0):
        for _ in range(turns):
            ours.append(await _ours(there))
            if qemu:
                theirs.append(await asyncio.to_thread(_theirs, size_mib))
    row = records.Row(
        "pre-copy while the guest writes",
        "Gbit/s",
        [rate * 8 / 1e9 for rate in ours],
        4.0 if theirs else None,
        True,
        "QEMU, TCG" if theirs else "",
        [each.bytes_per_second * 8 / 1e9 for each in theirs],
    )
    notes = [f"Guests of {size_mib} MiB that write {RATE // 10**6} MB/s anywhere."]
    if theirs:
        seen = statistics.median(each.written_bytes_per_second for each in theirs)
        notes.append(f"QEMU's was seen to write {seen / 1e6:.0f} MB/s.")
    notes += without(qemu, "QEMU")
    return records.Record("bench/writing_move.py", [row], turns, notes)


async def _ours(there: Lab) -> float:
    """One move; between moves the guest does not write, so that it takes nothing from QEMU."""
    await there.ask(NAME, {"op": "set", "rate": RATE})
    move = await there.move(NAME, LIMITS, Verify.OFF)
    await there.ask(NAME, {"op": "set", "rate": 0})
    return move.precopy_bytes_per_second


def _theirs(size_mib: int) -> Migrated:
    writes = Writes(RATE, hot_mib=size_mib - 3)
    with tempfile.TemporaryDirectory() as folder:
        return migrated(Path(folder), size_mib, writes, downtime_limit_ms=QEMU_STUN_MS)


async def main() -> None:
    given = records.given(__doc__, size_mib=2048, quick_mib=64, turns=5)
    async with lab() as there:
        record = await measure(there, given.size_mib, given.turns, qemu=has(PROGRAM))
    records.tell(record, given.json)


if __name__ == "__main__":
    asyncio.run(main())
