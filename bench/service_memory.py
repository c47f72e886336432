"""How much memory do a host's services take while they move a machine of 8 GiB?

A machine whose pages are all random, and which writes, is moved to and fro. All the while the
memory of both services is read: what is resident of them, less what they map of the machine, which
is the only shared memory that they have. What counts is the most that was seen of each in a move.

    python bench/service_memory.py [--size-mib 8192] [--turns 5] [--quick] [--json FILE]

Two such machines must fit into the host's memory: if they do not, it takes a smaller one, and says
so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import ending
import records
from moves import HOSTS, Lab, lab

from godwit.hypervisor.native.memory import available_bytes
from godwit.source_host import inventory
from godwit_protocol.events.migration import Limits

GOAL_MIB = 150.0
RATE = 100_000_000
LIMITS = Limits(stun_limit_ns=1_000_000_000)
NAME = "large"
LOOK_S = 0.02
ANNOUNCED_S = 2 * inventory.LOOK_S
"""Until then a host that the machine has left may still announce its memory as taken."""
SPARE_MIB = 2048
"""For everything else on this computer."""
SERVICES = ("source_host", "destination_host")


def own_kib(pid: int) -> int:
    """What is resident of a process and not shared memory."""
    told = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in told.splitlines())
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssFile"))


class Watched:
    """The most that each of some processes took."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.most_kib = dict.fromkeys(pids, 0)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Look at them all the while."""
        looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking

    async def _look(self) -> None:
        while True:
            for pid, most in self.most_kib.items():
                self.most_kib[pid] = max(most, own_kib(pid))
            await asyncio.sleep(LOOK_S)


async def measure(there: Lab, size_mib: int, turns: int) -> records.Record:
    """Every turn is a move to the other host."""
    found: dict[str, list[float]] = {service: [] for service in SERVICES}
    async with there.memhog(NAME, f"{size_mib}MiB", rate=RATE):
        for turn in range(turns):
            if turn:
                await asyncio.sleep(ANNOUNCED_S)
            hosts = HOSTS if turn % 2 == 0 else HOSTS[::-1]
            pids = [
                there.cluster.pid(f"{host}-{service}")
                for host, service in zip(hosts, SERVICES, strict=True)
            ]
            most = Watched(pids)
            async with most.watched():
                await there.move(NAME, LIMITS)
            for service, kib in zip(SERVICES, most.most_kib.values(), strict=True):
                found[service].append(kib / 1024)
    rows = [
        records.Row(f"own memory of `{service}`, at most", "MiB", values, GOAL_MIB)
        for service, values in found.items()
    ]
    notes = [f"A machine of {size_mib} MiB, all of it random, that writes {RATE // 10**6} MB/s."]
    return records.Record("bench/service_memory.py", rows, turns, notes)


async def main() -> None:
    given = records.given(__doc__, size_mib=8192, quick_mib=64, turns=5)
    fits_mib = ((available_bytes() >> 20) - SPARE_MIB) // 2
    async with lab() as there:
        record = await measure(there, min(given.size_mib, fits_mib), given.turns)
    records.tell(record, given.json)


if __name__ == "__main__":
    ending.run(main())
