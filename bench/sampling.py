"""What does a look at a machine's writes cost the machine? At most 1 % of its time, it should be.

``python bench/sampling.py [SECONDS]``: by guest, slices of SECONDS with windows one after the other
against slices without, in turns. What one window costs follows from the processor time that a unit
of the guest's work takes in each; its share of the guest's time from how seldom the host takes one.
Less than nothing means: less than can be told from what else runs on the machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from godwit.cli.cluster import Cluster
from godwit.cli.machine import ask_machine, make_spec, start_machine, stop_machine
from godwit.hypervisor.native.driver import NativeHypervisor
from godwit.hypervisor.port import Vmm
from godwit.runtime.clock import SystemClock
from godwit.runtime.event_log import EventLog
from godwit.runtime.nats_log import NatsLog
from godwit.source_host.sampler import take_window
from godwit_protocol.estimation.history import DirtyWindow
from godwit_protocol.estimation.sampling import next_begin_ns
from godwit_protocol.machine import PAGE_BYTES

SLICE_S = 4.0
TURNS = 5
PERIOD_NS = 10 * 10**9
HOST = "host-1"
MEMHOG = "godwit.guests.memhog:Memhog"
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
    "trainer, as fast as it can": (
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
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def work_done(log: EventLog, name: str, key: str) -> int:
    reply, _ = await ask_machine(log, name, b'{"op": "status"}', 30)
    return int(json.loads(reply)[key])


async def one_slice(log: EventLog, vmm: Vmm, key: str, seconds: float, watched: bool) -> Slice:
    pid, clock = (await vmm.status()).pid, SystemClock()
    before, cpu, began_s = await work_done(log, vmm.name, key), cpu_s(pid), time.monotonic()
    windows = []
    while time.monotonic() - began_s < seconds:
        if not watched:
            await asyncio.sleep(seconds)
        elif window := await take_window(vmm, HOST, clock):
            windows.append(window)
    used_s, wall_s = cpu_s(pid) - cpu, time.monotonic() - began_s
    return Slice(await work_done(log, vmm.name, key) - before, used_s, wall_s, windows)


async def measure(log: EventLog, hypervisor: NativeHypervisor, case: str, slice_s: float) -> dict:
    guest, ram, env, key = GUESTS[case]
    name = f"m-{list(GUESTS).index(case)}"
    await start_machine(log, make_spec(name, guest, ram=ram, env=env), HOST)
    vmm = await hypervisor.find(name)
    assert vmm is not None
    await one_slice(log, vmm, key, slice_s, watched=True)
    calm, seen = [], []
    for _ in range(TURNS):
        calm.append(await one_slice(log, vmm, key, slice_s, watched=False))
        seen.append(await one_slice(log, vmm, key, slice_s, watched=True))
    await stop_machine(log, name)
    return findings(case, calm, seen)


def findings(case: str, calm: list[Slice], seen: list[Slice]) -> dict:
    windows = [window for each in seen for window in each.windows]
    # The least of several slices: what else runs on the machine only ever adds.
    extra_s = min(s.cpu_s_each for s in seen) - min(c.cpu_s_each for c in calm)
    lost_s = extra_s * statistics.median(s.work / len(s.windows) for s in seen)
    pages = statistics.median(window.written_bytes[-1] // PAGE_BYTES for window in windows)
    every_s = statistics.median(next_begin_ns(window, PERIOD_NS) for window in windows) / 1e9
    sweeps_s = statistics.median(window.cost_ns for window in windows) / 1e9
    return {
        "guest": case,
        "windows": len(windows),
        "pages_written": pages,
        "guest_ms_a_window": 1e3 * lost_s,
        "ns_a_page": 1e9 * lost_s / max(pages, 1),
        "sweeps_ms_a_window": 1e3 * sweeps_s,
        "a_window_every_s": every_s,
        "share_of_guest": lost_s / every_s,
        "share_with_sweeps": (lost_s + sweeps_s) / every_s,
    }


async def main() -> None:
    slice_s = float(sys.argv[1]) if len(sys.argv) > 1 else SLICE_S
    unsampled = {"GODWIT_SAMPLING_PERIOD": "0s"}
    with tempfile.TemporaryDirectory() as directory:
        async with await Cluster.start(Path(directory), hosts=1, environ=unsampled) as cluster:
            log = await NatsLog.connect(cluster.nats_url, name="bench")
            hypervisor = NativeHypervisor(cluster.directory / "hosts" / HOST, cluster.nats_url)
            found = [await measure(log, hypervisor, case, slice_s) for case in GUESTS]
            await log.close()
    print(json.dumps(found))
    keys = [key for key in found[0] if key != "guest"]
    print(f"\n{'':36}" + "".join(f"{key:>20}" for key in keys))
    for each in found:
        print(f"{each['guest']:36}" + "".join(f"{each[key]:>20.4g}" for key in keys))


if __name__ == "__main__":
    asyncio.run(main())
