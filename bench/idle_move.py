"""How much of the machine's own speed does the move of an idle machine reach?

A machine whose pages are all random, and which writes nothing, is moved to and fro. Beside each
move, in the same turn: a bare ``sendfile`` -> ``recv_into`` loop over memory that is populated too,
iperf3 with zero copy, and ``MADV_POPULATE_WRITE`` of the same size alone.

    python bench/idle_move.py [--size-mib 4096] [--turns 5] [--quick] [--json FILE]
"""

from __future__ import annotations

import asyncio

import ending
import records
from moves import Lab, Move, lab
from peers import (
    BareLoop,
    bare_loop,
    has,
    iperf3_bytes_per_second,
    populating_s,
    without,
)

from godwit_protocol.events.migration import Limits, Verify

LOOP_BYTES_MAX = 2 << 30
"""The loop's memory: far over any cache, and there must be room for it beside the machine."""
LIMITS = Limits(stun_limit_ns=5_000_000_000)
NAME = "idle"
IPERF3 = "iperf3 -Z"


class Turns:
    """What each turn found, bytes a second and seconds."""

    def __init__(self, size_bytes: int, iperf3_s: int) -> None:
        self.size_bytes = size_bytes
        self.iperf3_s = iperf3_s
        self.plain: list[Move] = []
        self.wire: list[Move] = []
        self.loop: list[float] = []
        self.iperf3: list[float] = []
        self.populate_s: list[float] = []

    async def add(self, there: Lab, loop: BareLoop) -> None:
        """One turn."""
        # Memory that is free for seconds is taken back by a hypervisor, and costs more to get then:
        # both populate what was freed just now.
        await asyncio.to_thread(populating_s, self.size_bytes)
        self.populate_s.append(await asyncio.to_thread(populating_s, self.size_bytes))
        self.plain.append(await there.move(NAME, LIMITS, Verify.OFF))
        self.loop.append(await asyncio.to_thread(loop.bytes_per_second))
        self.wire.append(await there.move(NAME, LIMITS, Verify.WIRE))
        if self.iperf3_s:
            self.iperf3.append(await asyncio.to_thread(iperf3_bytes_per_second, self.iperf3_s))

    def rows(self) -> list[records.Row]:
        """The table."""
        plain = [gbit(move.first_round_bytes_per_second) for move in self.plain]
        wire = [gbit(move.first_round_bytes_per_second) for move in self.wire]
        loop, bare = [gbit(rate) for rate in self.loop], "bare loop"
        at_bare_s = [self.size_bytes / rate for rate in self.loop]
        elapsed = [move.from_first_byte_s for move in self.plain]
        prepared = [move.prepare_s for move in self.plain]
        control = [move.control_share * 100 for move in self.plain]
        rows = [
            records.Row("pre-copy, `--verify off`", "Gbit/s", plain, 0.95, True, bare, loop),
            records.Row("pre-copy, `--verify wire`", "Gbit/s", wire, 0.75, True, bare, loop),
            records.Row(
                "first byte to resume", "s", elapsed, 1.1, False, f"size / {bare}", at_bare_s
            ),
            records.Row("prepare", "s", prepared, 1.1, False, "populate alone", self.populate_s),
            records.Row("control plane, of all the time to the end", "%", control, 2.0),
            records.Row(
                "from the first step there to the end", "s", [move.release_s for move in self.plain]
            ),
        ]
        if self.iperf3:
            told = [gbit(rate) for rate in self.iperf3]
            beside = records.Row(
                "pre-copy, `--verify off`", "Gbit/s", plain, 0.75, True, IPERF3, told
            )
            rows.insert(1, beside)
        return rows


def gbit(bytes_per_second: float) -> float:
    """Gbit/s."""
    return bytes_per_second * 8 / 1e9


async def measure(there: Lab, size_mib: int, turns: int, iperf3_s: int) -> records.Record:
    """``iperf3_s``: for how long iperf3 sends; 0: it is left out."""
    found = Turns(size_mib << 20, iperf3_s)
    with bare_loop(min(found.size_bytes, LOOP_BYTES_MAX)) as loop:
        async with there.memhog(NAME, f"{size_mib}MiB"):
            for _ in range(turns):
                await found.add(there, loop)
    notes = [f"A machine of {size_mib} MiB, all of it random.", *without(iperf3_s > 0, "iperf3")]
    return records.Record("bench/idle_move.py", found.rows(), turns, notes)


async def main() -> None:
    given = records.given(__doc__, size_mib=4096, quick_mib=64, turns=5)
    iperf3_s = (1 if given.quick else 3) if has("iperf3") else 0
    async with lab() as there:
        record = await measure(there, given.size_mib, given.turns, iperf3_s)
    records.tell(record, given.json)


if __name__ == "__main__":
    ending.run(main())
