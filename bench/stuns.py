"""How long does a machine stand still, and how long would it otherwise?

A nearly idle machine; the same without pre-copy, all of it sent while it is stunned; and one that
writes 50 MB/s in a hot set of 64 MiB, beside QEMU's migration of such a guest under emulation, with
QEMU's default for the longest downtime (the row with a goal) and with a tenth of it.

    python bench/stuns.py [--size-mib 1024] [--turns 7] [--quick] [--json FILE]
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import ending
import records
from moves import LONG_STUN, Lab, lab
from peers import has, without
from qemu_peer import PROGRAM, Writes, migrated

from godwit_protocol.events.migration import Limits

RATE = 50_000_000
HOT_MIB = 64
PRECOPY_OFF = Limits(stun_limit_ns=LONG_STUN, rounds_max=0)
QEMU_GOALS: dict[int, float | None] = {300: 1 / 3, 30: None}
"""By QEMU's limit of the downtime, in milliseconds, of which the first is its default."""


class Stuns:
    """Milliseconds, turn by turn."""

    def __init__(self, *, qemu: bool) -> None:
        self.idle: list[float] = []
        self.stop_and_copy: list[float] = []
        self.hot: list[float] = []
        self.qemu: dict[int, list[float]] = {limit: [] for limit in QEMU_GOALS if qemu}

    async def add(self, there: Lab, size_mib: int) -> None:
        """One turn. Whoever is not being moved does not write."""
        self.idle.append((await there.move("idle")).stun_ms)
        self.stop_and_copy.append((await there.move("idle", PRECOPY_OFF)).stun_ms)
        await there.ask("hot", {"op": "set", "rate": RATE})
        self.hot.append((await there.move("hot")).stun_ms)
        await there.ask("hot", {"op": "set", "rate": 0})
        for limit_ms, found in self.qemu.items():
            found.append(await asyncio.to_thread(_qemu_ms, size_mib, limit_ms))

    def rows(self) -> list[records.Row]:
        """The table."""
        nothing = records.Row("stun, nearly idle", "ms", self.idle, 5.0)
        copied = "without pre-copy"
        rows = [
            nothing,
            records.Row("the same", "ms", self.idle, 1 / 50, False, copied, self.stop_and_copy),
        ]
        hot = f"stun, {RATE // 10**6} MB/s in {HOT_MIB} MiB"
        if not self.qemu:
            return [*rows, records.Row(hot, "ms", self.hot)]
        return rows + [
            records.Row(
                hot, "ms", self.hot, goal, False, f"QEMU, limit {limit} ms", self.qemu[limit]
            )
            for limit, goal in QEMU_GOALS.items()
        ]


def _qemu_ms(size_mib: int, limit_ms: int) -> float:
    writes = Writes(RATE, min(HOT_MIB, size_mib // 2))
    with tempfile.TemporaryDirectory() as folder:
        return migrated(
            Path(folder), size_mib, writes, downtime_limit_ms=limit_ms, populated=True
        ).stun_ms


async def measure(there: Lab, size_mib: int, turns: int, *, qemu: bool) -> records.Record:
    """``qemu``: whether it is to be measured too."""
    found, ram = Stuns(qemu=qemu), f"{size_mib}MiB"
    hot = {"pattern": "hot", "hot": HOT_MIB << 20, "seed": 2}  # none of its pages is the idle one's
    async with there.memhog("idle", ram), there.memhog("hot", ram, **hot):
        for _ in range(turns):
            await found.add(there, size_mib)
    notes = [f"Machines of {size_mib} MiB, every page of them written.", *without(qemu, "QEMU")]
    return records.Record("bench/stuns.py", found.rows(), turns, notes)


async def main() -> None:
    given = records.given(__doc__, size_mib=1024, quick_mib=128, turns=5)
    async with lab() as there:
        record = await measure(there, given.size_mib, given.turns, qemu=has(PROGRAM))
    records.tell(record, given.json)


if __name__ == "__main__":
    ending.run(main())
