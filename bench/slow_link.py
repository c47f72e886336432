"""Over a link that is slow: what do compression and the number of connections gain or lose?

A machine of English words and one of random bytes move over 200 Mbit/s and over 1 Gbit/s, which
the kernel makes of the loopback (``slow_loopback``): turn by turn on four clusters, with
compression off or chosen, over one connection or a number that is chosen. All is held against
off and one.

    python bench/slow_link.py [--size-mib 64] [--turns 5] [--quick] [--json FILE]

``--size-mib`` is for each 200 Mbit/s. ``--quick``: words only, over the slower link, as Godwit is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import ending
import records
import slow_loopback
from moves import MEMHOG, Lab, Move, lab

from godwit.cli.machine import make_spec

TEXT = f"{Path(__file__).with_name('text_guest.py')}:Text"
FILLED = ("GODWIT_MEMHOG_FILL=1", "GODWIT_MEMHOG_RATE=0")
SLOWEST_MBIT = 200


@dataclass(frozen=True)
class Setting:
    """How a cluster's hosts send."""

    compression: str
    connections: str

    def __str__(self) -> str:
        return f"compression {self.compression}, connections {self.connections}"

    @property
    def environ(self) -> Mapping[str, str]:
        """Of its services."""
        return {
            "GODWIT_LINK_HOST": slow_loopback.SLOW_ADDRESS,
            "GODWIT_COMPRESSION": self.compression,
            "GODWIT_BULK_CONNECTIONS": self.connections,
        }


@dataclass(frozen=True)
class Case:
    """A machine over a link. ``goal``: of the time that it takes as it is, with compression. Over a
    link that is hardly slower than two busy cores compress, not to lose is all that is asked for.
    """

    name: str
    guest: str
    mbit_per_second: int
    goal: float

    def __str__(self) -> str:
        return f"{self.name}, {self.mbit_per_second} Mbit/s"

    def size_mib(self, slowest_mib: int) -> int:
        """So that each link is as long at work."""
        return slowest_mib * self.mbit_per_second // SLOWEST_MBIT


PLAIN, CHOSEN = Setting("off", "1"), Setting("auto", "auto")
SETTINGS = (CHOSEN, Setting("off", "auto"), Setting("auto", "1"))
NO_LOSS = 1.03
CASES = (
    Case("words", TEXT, 200, 0.75),
    Case("words", TEXT, 1000, NO_LOSS),
    Case("random bytes", MEMHOG, 200, NO_LOSS),
    Case("random bytes", MEMHOG, 1000, NO_LOSS),
)
Found = dict[Setting, list[Move]]


@asynccontextmanager
async def labs(settings: Sequence[Setting]) -> AsyncIterator[dict[Setting, Lab]]:
    """A cluster each; the slow link is there."""
    async with AsyncExitStack() as stack:
        started = [stack.enter_async_context(lab(environ=each.environ)) for each in settings]
        yield dict(zip(settings, await asyncio.gather(*started), strict=True))


async def moves_of(there: Mapping[Setting, Lab], case: Case, size_mib: int, turns: int) -> Found:
    """A machine in each lab, turn by turn; who is first changes."""
    slow_loopback.set_rate(case.mbit_per_second)
    found: Found = {setting: [] for setting in there}
    async with AsyncExitStack() as stack:
        for lab_ in there.values():
            spec = make_spec("mover", case.guest, ram=f"{case.size_mib(size_mib)}MiB", env=FILLED)
            await stack.enter_async_context(lab_.machine(spec))
        for turn in range(turns):
            order = list(there)[turn % len(there) :] + list(there)[: turn % len(there)]
            for setting in order:
                found[setting].append(await there[setting].move("mover"))
    return found


def rows_of(case: Case, found: Found) -> list[records.Row]:
    """All that was chosen, then each choice alone."""
    theirs = [move.from_first_byte_s for move in found[PLAIN]]
    return [
        records.Row(
            f"{case}: {setting}",
            "s",
            [move.from_first_byte_s for move in moves],
            NO_LOSS if setting.compression == "off" else case.goal,
            peer=str(PLAIN),
            theirs=theirs,
        )
        for setting, moves in found.items()
        if setting != PLAIN
    ]


def told(case: Case, moves: Sequence[Move]) -> str:
    """What was chosen, round by round, of the last move."""
    figures = [done.figures for done in moves[-1].summary.rounds]
    chosen = ", ".join(
        f"{each.wire_bytes / 1e6:.3g} MB for {each.sent_bytes / 1e6:.3g} by"
        f" {each.connections} with {each.compression.value}"
        for each in figures
    )
    return f"{case}, rounds: {chosen}."


async def measure(
    there: Mapping[Setting, Lab], cases: Sequence[Case], size_mib: int, turns: int
) -> records.Record:
    """``there``: a lab for each setting, ``PLAIN`` among them."""
    rows, notes = [], []
    for case in cases:
        found = await moves_of(there, case, size_mib, turns)
        rows += rows_of(case, found)
        notes.append(told(case, found[CHOSEN]))
    return records.Record("bench/slow_link.py", rows, turns, notes)


async def main() -> None:
    given = records.given(__doc__, size_mib=64, quick_mib=64, turns=5)
    slow_loopback.enter()
    settings, cases = ((CHOSEN,), CASES[:1]) if given.quick else (SETTINGS, CASES)
    async with labs((*settings, PLAIN)) as there:
        record = await measure(there, cases, given.size_mib, given.turns)
    records.tell(record, given.json)


if __name__ == "__main__":
    ending.run(main())
