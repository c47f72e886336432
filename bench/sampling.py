"""What does a look at a machine's writes cost the machine? At most 1 % of its time, it should be.

``python bench/sampling.py [PAIRS] [--quick] [--json FILE]``: by guest, so many pairs of slices, one
with windows one after the other beside one of the same length without, in changing order. What a
window costs the guest is the processor time that a unit of its work takes more, from what differs
within the pairs: what else runs on the machine is in both slices of a pair. Its share of the
guest's time follows from how seldom the host takes a window. Prints the table of
docs/performance.md with the 95 % interval of the median (bootstrap). The last column is the worst
case: the interval's end, and all that a window takes outside the guest counted as if it were taken
from the guest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import ending
import records

from godwit.cli.machine import ask_machine, make_spec, start_machine, stop_machine
from godwit.hypervisor.native.driver import NativeHypervisor
from godwit.hypervisor.port import Vmm
from godwit.local_cluster.cluster import Cluster
from godwit.runtime.clock import SystemClock
from godwit.runtime.event_log import EventLog
from godwit.runtime.nats_log import NatsLog
from godwit.source_host.sampler import take_window
from godwit_protocol.estimation.history import DirtyWindow
from godwit_protocol.estimation.sampling import next_begin_ns
from godwit_protocol.machine import PAGE_BYTES

PAIRS = 20
WINDOWS_A_SLICE = 2
PERIOD_NS = 10 * 10**9
HOST = "host-1"
MEMHOG = "godwit.guests.memhog:Memhog"
TRAINER = "trainer, as fast as it can"
GUESTS = {
    "memhog, 200 MB/s anywhere in 1 GiB": (
        MEMHOG,
        "1GiB",
        ("GODWIT_MEMHOG_RATE=200000000", "GODWIT_MEMHOG_FILL=1"),
        "pages_written",
    ),
    "memhog, 50 MB/s in 64 MiB of 1 GiB": (
        MEMHOG,
        "1GiB",
        ("GODWIT_MEMHOG_RATE=50000000", "GODWIT_MEMHOG_PATTERN=hot", "GODWIT_MEMHOG_FILL=1"),
        "pages_written",
    ),
    TRAINER: (
        "godwit.guests.trainer:Trainer",
        "256MiB",
        ("GODWIT_TRAINER_HIDDEN=512", "OPENBLAS_NUM_THREADS=1"),
        "step",
    ),
}


@dataclass
class Slice:
    """What a guest did in a while, and what that took."""

    work: int
    cpu_s: float
    wall_s: float
    windows: list[DirtyWindow]

    @property
    def cpu_s_each(self) -> float:
        return self.cpu_s / max(self.work, 1)


def cpu_s(pid: int) -> float:
    """Processor time of all threads, from the scheduler: in ns, where stat counts in 10 ms."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


async def work_done(log: EventLog, name: str, key: str) -> int:
    reply, _ = await ask_machine(log, name, b'{"op": "status"}', 30)
    return int(json.loads(reply)[key])


async def one_slice(log: EventLog, vmm: Vmm, key: str, seconds: float) -> Slice:
    """With windows if ``seconds`` is 0, as long as they take; else so long without."""
    pid, clock = (await vmm.status()).pid, SystemClock()
    before, cpu, began_s = await work_done(log, vmm.name, key), cpu_s(pid), time.monotonic()
    windows = []
    if seconds:
        await asyncio.sleep(seconds)
    else:
        taken = [await take_window(vmm, HOST, clock) for _ in range(WINDOWS_A_SLICE)]
        windows = [window for window in taken if window is not None]
    used_s, wall_s = cpu_s(pid) - cpu, time.monotonic() - began_s
    return Slice(await work_done(log, vmm.name, key) - before, used_s, wall_s, windows)


async def measure(log: EventLog, hypervisor: NativeHypervisor, case: str, count: int) -> dict:
    guest, ram, env, key = GUESTS[case]
    name = f"m-{list(GUESTS).index(case)}"
    await start_machine(log, make_spec(name, guest, ram=ram, env=env), HOST)
    vmm = await hypervisor.find(name)
    assert vmm is not None
    slice_s = (await one_slice(log, vmm, key, 0)).wall_s
    pairs = []
    for number in range(count):
        lengths = (slice_s, 0) if number % 2 else (0, slice_s)
        both = [await one_slice(log, vmm, key, length) for length in lengths]
        pairs.append(sorted(both, key=lambda each: len(each.windows)))
    await stop_machine(log, name)
    return findings(case, [(calm, seen) for calm, seen in pairs])


def findings(case: str, pairs: list[tuple[Slice, Slice]]) -> dict:
    windows = [window for _, seen in pairs for window in seen.windows]
    lost_s = [
        (seen.cpu_s_each - calm.cpu_s_each) * seen.work / max(len(seen.windows), 1)
        for calm, seen in pairs
    ]
    low_s, high_s = records.interval(lost_s)
    every_s = statistics.median(next_begin_ns(window, PERIOD_NS) for window in windows) / 1e9
    outside_s = statistics.median(window.cost_ns for window in windows) / 1e9
    return {
        "guest": case,
        "pairs": len(pairs),
        "pages": statistics.median(window.written_bytes[-1] // PAGE_BYTES for window in windows),
        "lost_ms": 1e3 * statistics.median(lost_s),
        "lost_ms_low": 1e3 * low_s,
        "lost_ms_high": 1e3 * high_s,
        "outside_ms": 1e3 * outside_s,
        "every_s": every_s,
        "share": statistics.median(lost_s) / every_s,
        "share_low": low_s / every_s,
        "share_high": high_s / every_s,
        "share_at_worst": (max(high_s, 0.0) + outside_s) / every_s,
    }


def table(found: list[dict]) -> str:
    heads = ("guest", "pairs", "pages a window", "lost a window, ms", "one every, s")
    heads = (*heads, "share of the guest's time", "at worst")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for each in found:
        lines.append(
            "| {guest} | {pairs} | {pages:,.0f} | {lost_ms:.1f} ({lost_ms_low:.1f} to"
            " {lost_ms_high:.1f}) | {every_s:.0f} | {share:.2%} ({share_low:.2%} to"
            " {share_high:.2%}) | {share_at_worst:.2%} |".format(**each)
        )
    return "\n".join(lines)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=int, nargs="?", default=PAIRS)
    parser.add_argument("--quick", action="store_true", help="one pair, of the smallest guest")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    guests, pairs = ([TRAINER], 1) if given.quick else ([*GUESTS], given.pairs)
    unsampled = {"GODWIT_SAMPLING_PERIOD": "0s"}
    with tempfile.TemporaryDirectory() as directory:
        async with await Cluster.start(Path(directory), hosts=1, environ=unsampled) as cluster:
            log = await NatsLog.connect(cluster.nats_url, name="bench")
            hypervisor = NativeHypervisor(cluster.directory / "hosts" / HOST, cluster.nats_url)
            found = [await measure(log, hypervisor, case, pairs) for case in guests]
            await log.close()
    records.tell_text("bench/sampling.py", table(found), given.json, guests=found)


if __name__ == "__main__":
    ending.run(main())
