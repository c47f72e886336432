"""When is memory compressed, and what is gained or lost by it?

A machine of English words and one of random bytes move on two clusters, turn by turn: on one as
Godwit is, on the other with ``GODWIT_COMPRESSION=off``. Once with the loopback as the link, which
is faster than any compressor here, and once with the bandwidth capped.

    python bench/compression.py [--size-mib 256] [--turns 5] [--quick] [--json FILE]
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import ending
import records
from moves import MEMHOG, Lab, Move, lab

from godwit.cli.machine import make_spec
from godwit_protocol.events.migration import Limits

TEXT = f"{Path(__file__).with_name('text_guest.py')}:Text"
CAP_BYTES_PER_SECOND = 500_000_000 // 8
CAPPED = Limits(bandwidth_bytes_per_second=CAP_BYTES_PER_SECOND)
FREE = Limits()


@dataclass(frozen=True)
class Case:
    """One machine over one link. ``goal``: of the time that it takes without compression."""

    name: str
    guest: str
    limits: Limits
    goal: float


CASES = (
    Case("words, capped at 500 Mbit/s", TEXT, CAPPED, 0.8),
    Case("random bytes, capped at 500 Mbit/s", MEMHOG, CAPPED, 1.03),
    Case("words, loopback", TEXT, FREE, 1.05),
    Case("random bytes, loopback", MEMHOG, FREE, 1.05),
)


@asynccontextmanager
async def machines(labs: tuple[Lab, Lab], guest: str, size_mib: int) -> AsyncIterator[list[str]]:
    """One of a kind in each lab, by its name."""
    names = ["compressed", "plain"]
    env = ("GODWIT_MEMHOG_FILL=1", "GODWIT_MEMHOG_RATE=0")
    async with AsyncExitStack() as stack:
        for there, name in zip(labs, names, strict=True):
            spec = make_spec(name, guest, ram=f"{size_mib}MiB", env=env)
            await stack.enter_async_context(there.machine(spec))
        yield names


async def moves_of(
    labs: tuple[Lab, Lab], case: Case, size_mib: int, turns: int
) -> tuple[list[Move], list[Move]]:
    """As it is, and without compression."""
    found: tuple[list[Move], list[Move]] = [], []
    async with machines(labs, case.guest, size_mib) as names:
        sides = list(zip(labs, names, found, strict=True))
        for turn in range(turns):
            for there, name, moves in sides if turn % 2 else reversed(sides):
                moves.append(await there.move(name, case.limits))
    return found


async def measure(there: Lab, without: Lab, size_mib: int, turns: int) -> records.Record:
    """``without``: a lab in which compression is off."""
    rows, notes = [], []
    for case in CASES:
        ours, theirs = await moves_of((there, without), case, size_mib, turns)
        rows.append(
            records.Row(
                case.name,
                "s",
                [move.from_first_byte_s for move in ours],
                case.goal,
                peer="off",
                theirs=[move.from_first_byte_s for move in theirs],
            )
        )
        notes.append(told(case, ours))
    return records.Record("bench/compression.py", rows, turns, notes)


def told(case: Case, moves: list[Move]) -> str:
    """What compression did there, of all moves together."""
    figures = [done.figures for move in moves for done in move.summary.rounds]
    methods = sorted({each.compression.value for each in figures if each.compression_bytes})
    sent, saved = (
        sum(getattr(each, name) for each in figures) for name in ("sent_bytes", "compression_bytes")
    )
    how = f"{', '.join(methods)} saved {100 * saved / max(sent, 1):.0f} %" if saved else "nothing"
    return f"{case.name}: {how}."


async def main() -> None:
    given = records.given(__doc__, size_mib=256, quick_mib=16, turns=5)
    async with lab() as there, lab(environ={"GODWIT_COMPRESSION": "off"}) as without:
        record = await measure(there, without, given.size_mib, given.turns)
    records.tell(record, given.json)


if __name__ == "__main__":
    ending.run(main())
