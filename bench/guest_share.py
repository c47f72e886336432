"""What is left to the guest while it is copied at a capped rate?

A guest that writes as fast as it can among 64 MiB of its memory is left alone for a while, and then
its pre-copy is watched, capped at 5 Gbit/s: how many pages a second does it write before, and how
many during the first round? The guest, both hosts and this script share the machine's cores. The
migration is cancelled then: such a guest would not be stunned.

    python bench/guest_share.py [--size-mib 2048] [--turns 5] [--quick] [--json FILE]
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import cast

import ending
import records
from moves import Lab, lab

from godwit.cli.migration import cancel_migration
from godwit_protocol import subjects
from godwit_protocol.events import Event
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import Limits
from godwit_protocol.stored import Stored

CAP_BYTES_PER_SECOND = 5_000_000_000 // 8
LIMITS = Limits(stun_limit_ns=1_000, bandwidth_bytes_per_second=CAP_BYTES_PER_SECOND)
RATE = 1 << 40
NAME = "busy"
HOT_BYTES = 64 << 20
LOOK_S = 2.0
SAID_S_MAX = 60.0


async def written_per_second(there: Lab, until: Awaitable[None]) -> float:
    """Pages a second, ``until`` something has happened."""
    before, began = await pages_written(there), time.monotonic()
    await until
    return (await pages_written(there) - before) / (time.monotonic() - began)


async def pages_written(there: Lab) -> int:
    return int((await there.ask(NAME, {"op": "status"}))["pages_written"])


async def turn(there: Lab, look_s: float) -> tuple[float, float]:
    """During the first round, and before, for ``look_s``."""
    before = await written_per_second(there, asyncio.sleep(look_s))
    migration = await there.request(NAME, LIMITS)
    await said(there, migration, ev.PrecopyStarted)
    first_round = asyncio.ensure_future(said(there, migration, ev.RoundCompleted))
    during = await written_per_second(there, first_round)
    await cancel_migration(there.log, migration)
    return during, before


async def said(there: Lab, migration: str, kind: type[Event]) -> None:
    """Wait until the source has said so."""
    subject = subjects.migration(migration, "source", kind.TYPE)
    arrivals = cast("AsyncGenerator[Stored, None]", there.log.tail([subject]))
    async with aclosing(arrivals), asyncio.timeout(SAID_S_MAX):
        await anext(arrivals)


async def measure(there: Lab, size_mib: int, turns: int, look_s: float) -> records.Record:
    """``look_s``: how long the guest is watched before it is copied."""
    settings = {"rate": RATE, "pattern": "hot", "hot": HOT_BYTES}
    async with there.memhog(NAME, f"{size_mib}MiB", **settings):
        found = [await turn(there, look_s) for _ in range(turns)]
    row = records.Row(
        "the guest's writes, pre-copy at 5 Gbit/s",
        "MB/s",
        [during * 4096 / 1e6 for during, _ in found],
        0.8,
        True,
        "before",
        [before * 4096 / 1e6 for _, before in found],
    )
    notes = [f"A guest of {size_mib} MiB that writes as fast as it can in {HOT_BYTES >> 20} MiB."]
    return records.Record("bench/guest_share.py", [row], turns, notes)


async def main() -> None:
    given = records.given(__doc__, size_mib=2048, quick_mib=128, turns=5)
    async with lab() as there:
        record = await measure(there, given.size_mib, given.turns, 0.3 if given.quick else LOOK_S)
    records.tell(record, given.json)


if __name__ == "__main__":
    ending.run(main())
