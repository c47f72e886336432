"""Does Python do any work a page? How often it calls anything, to a page that is moved.

A machine is moved to and fro by services that count their calls, of functions and of builtins, in
all of their threads from one move to the next (``counting.py``). It writes nothing at first, so
that all goes in whole runs, and then pages anywhere, which are gathered and scattered.

    python bench/calls.py [--size-mib 1024] [--turns 5] [--quick] [--json FILE]
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import ending
import records
from moves import HOSTS, Lab, lab

from godwit_protocol.events.migration import Limits, Verify

GOAL = 1.0
"""Calls a page, of all threads of a service: were anything done for each page, it would be more."""
RATE = 200_000_000
LIMITS = Limits(stun_limit_ns=1_000_000_000)
NAME = "counted"
SERVICES = ("source_host", "destination_host")
COUNTS_S_MAX = 10.0


class Counts:
    """What the services have counted, move by move."""

    def __init__(self, there: Lab, folder: Path) -> None:
        self._there = there
        self._folder = folder
        self._before: dict[str, int] = {}
        self._number = 0

    async def of_a_move(self, verify: Verify) -> list[float]:
        """Move the machine; return calls a page of the source's service and the destination's."""
        hosts = HOSTS if self._number % 2 == 0 else HOSTS[::-1]
        self._number += 1
        files = [f"{host}-{service}" for host, service in zip(hosts, SERVICES, strict=True)]
        for name in files:
            self._file(name).unlink(missing_ok=True)
        move = await self._there.move(NAME, LIMITS, verify)
        pages = sum(done.figures.pages for done in move.summary.rounds)
        return [await self._more(name) / pages for name in files]

    async def _more(self, name: str) -> int:
        """Calls since the last move of the same service: it writes them down when one is over."""
        await asyncio.to_thread(self._await_file, name)
        calls = sum(json.loads(self._file(name).read_text()).values())
        before, self._before[name] = self._before.get(name, 0), calls
        return calls - before

    def _await_file(self, name: str) -> None:
        deadline = time.monotonic() + COUNTS_S_MAX
        while not self._file(name).exists():
            assert time.monotonic() < deadline, f"{name} wrote no counts"
            time.sleep(0.05)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.json"


async def measure(there: Lab, folder: Path, size_mib: int, turns: int) -> records.Record:
    """``folder``: where the services write their counts."""
    counts = Counts(there, folder)
    rows: list[records.Row] = []
    async with there.memhog(NAME, f"{size_mib}MiB"):
        for _ in range(2):  # all that is called once, before the first move of each service
            await counts.of_a_move(Verify.WIRE)
        for what, rate in (("whole", 0), (f"{RATE // 10**6} MB/s written meanwhile", RATE)):
            await there.ask(NAME, {"op": "set", "rate": rate})
            for verify in (Verify.OFF, Verify.WIRE):
                found = [await counts.of_a_move(verify) for _ in range(turns)]
                rows += [
                    records.Row(f"{what}, `{verify}`, `{service}`", "calls a page", each, GOAL)
                    for service, each in zip(
                        SERVICES, map(list, zip(*found, strict=True)), strict=True
                    )
                ]
    return records.Record("bench/calls.py", rows, turns, [f"A machine of {size_mib} MiB."])


@asynccontextmanager
async def counting_lab() -> AsyncIterator[tuple[Lab, Path]]:
    """A cluster whose services count, and the folder that they write their counts to."""
    with tempfile.TemporaryDirectory() as folder:
        path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        environ = {"COUNTS_DIR": folder, "PYTHONPATH": os.pathsep.join(path)}
        async with lab(environ=environ, launch_through=("counting",)) as there:
            yield there, Path(folder)


async def main() -> None:
    given = records.given(__doc__, size_mib=1024, quick_mib=64, turns=5)
    async with counting_lab() as (there, folder):
        record = await measure(there, folder, given.size_mib, given.turns)
    records.tell(record, given.json)


if __name__ == "__main__":
    ending.run(main())
