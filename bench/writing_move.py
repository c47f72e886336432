"""How fast is pre-copy while the guest writes, and how fast is QEMU's own?

A guest that writes 200 MB/s anywhere in its memory is moved by Godwit, and one of the same size and
rate by QEMU under emulation, turn by turn. Both write a word of a page, and sleep in between
(``word_guest.py``, ``qemu_guest.s``). The rate is that of all bytes that went out until the machine
was stunned.

    python bench/writing_move.py [--size-mib 2048] [--turns 5] [--quick] [--json FILE]

QEMU's guest has no operating system and 32 bits, so both have 2 GiB. Godwit's memory is
populated in the prepare step; QEMU has none, so that the time of all of it stands beside.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import ending
import records
from moves import Lab, Move, lab
from peers import has, without
from qemu_peer import PAGE_BYTES, PROGRAM, RATE_S, Migrated, Writes, migrated

from godwit.cli.machine import make_spec
from godwit_protocol.events.migration import Limits, Verify

RATE = 200_000_000
LIMITS = Limits(stun_limit_ns=1_000_000_000)
NAME = "writer"
GUEST = f"{Path(__file__).with_name('word_guest.py')}:Words"
QEMU_STUN_MS = 300
"""QEMU's own default."""
MEASURE = "pre-copy while the guest writes"
WHOLE = "prepare, pre-copy and stun"
PEERS = {"QEMU, TCG": False, "QEMU, its memory populated before": True}
GOALS = (4.0, None)
"""The goal is of QEMU as it comes; the other is there to compare like with like."""


async def measure(there: Lab, size_mib: int, turns: int, *, qemu: bool) -> records.Record:
    """``qemu``: whether it is to be measured too."""
    ours: list[Move] = []
    theirs: dict[str, list[Migrated]] = {peer: [] for peer in PEERS if qemu}
    written: list[float] = []
    async with there.machine(make_spec(NAME, GUEST, ram=f"{size_mib}MiB")):
        for _ in range(turns):
            ours.append(await _ours(there, written))
            for peer, found in theirs.items():
                found.append(await asyncio.to_thread(_theirs, size_mib, populated=PEERS[peer]))
    rates = [gbit(move.precopy_bytes_per_second) for move in ours]
    rows = [records.Row(MEASURE, "Gbit/s", rates)] if not qemu else []
    for (peer, found), goal in zip(theirs.items(), GOALS, strict=False):
        told = [gbit(each.bytes_per_second) for each in found]
        rows.append(records.Row(MEASURE, "Gbit/s", rates, goal, True, peer, told))
    whole_s = [move.prepare_s + move.from_first_byte_s for move in ours]
    for peer, found in theirs.items():
        total_s = [each.total_s for each in found]
        rows.append(records.Row(WHOLE, "s", whole_s, None, False, peer, total_s))
    notes = [f"Guests of {size_mib} MiB that write {RATE // 10**6} MB/s anywhere."]
    notes.append(f"Ours was seen to write {statistics.median(written) / 1e6:.0f} MB/s.")
    if qemu:
        every = [each for found in theirs.values() for each in found]
        seen = statistics.median(each.written_bytes_per_second for each in every)
        notes.append(f"QEMU's was seen to write {seen / 1e6:.0f} MB/s.")
    notes += without(qemu, "QEMU")
    return records.Record("bench/writing_move.py", rows, turns, notes)


async def _ours(there: Lab, written: list[float]) -> Move:
    """One move, and before it, what the guest is seen to write. Between moves it does not write, so
    that it takes nothing from QEMU.
    """
    before = (await there.ask(NAME, {"rate": RATE}))["pages_written"]
    began = time.monotonic()
    await asyncio.sleep(RATE_S)
    pages = (await there.ask(NAME, {}))["pages_written"] - before
    written.append(pages * PAGE_BYTES / (time.monotonic() - began))
    move = await there.move(NAME, LIMITS, Verify.OFF)
    await there.ask(NAME, {"rate": 0})
    return move


def _theirs(size_mib: int, *, populated: bool) -> Migrated:
    writes = Writes(RATE, hot_mib=size_mib - 3)
    with tempfile.TemporaryDirectory() as folder:
        return migrated(
            Path(folder), size_mib, writes, downtime_limit_ms=QEMU_STUN_MS, populated=populated
        )


def gbit(bytes_per_second: float) -> float:
    """Gbit/s."""
    return bytes_per_second * 8 / 1e9


async def main() -> None:
    given = records.given(__doc__, size_mib=2048, quick_mib=64, turns=5)
    async with lab() as there:
        record = await measure(there, given.size_mib, given.turns, qemu=has(PROGRAM))
    records.tell(record, given.json)


if __name__ == "__main__":
    ending.run(main())
