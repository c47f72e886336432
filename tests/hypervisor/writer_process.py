"""A process that writes tracked memory, seen from outside, and both ways to find what it wrote."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from godwit.hypervisor.native.digest_tracker import DigestTracker
from godwit.hypervisor.native.dirty import WriteProtectTracker
from godwit.hypervisor.native.memory import MachineMemory
from godwit.transfer.partition import numbers_in
from godwit.transfer.sent_leaves import SentLeaves
from godwit_protocol.machine import PAGE_BYTES, RegionSpec


class WriterProcess:
    """The writer, and its memory mapped here too, as a host service has a VMM's."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("writer.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def send(self, *command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def receive(self):
        return json.loads(self.process.stdout.readline())

    def do(self, *command):
        self.send(*command)
        return self.receive()

    def allocate(self, *sizes):
        parts = self.do("allocate", *sizes)
        specs = [RegionSpec(f"r{index}", pages * PAGE_BYTES) for index, pages in enumerate(sizes)]
        folder = f"/proc/{self.process.pid}/fd"
        fds = [os.open(f"{folder}/{fd}", os.O_RDWR) for fd, _ in parts]
        return MachineMemory.adopt(specs, fds, [address for _, address in parts])

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)


def pages_of(runs):
    return {page for start, count in runs.tolist() for page in range(start, start + count)}


def empty_like(memory):
    return MachineMemory.allocate([RegionSpec(r.name, r.size_bytes) for r in memory.regions])


class Kernel:
    """Who sends relies on the kernel's dirty bits."""

    def __init__(self, pid, memory):
        self.memory = memory
        self.tracker = WriteProtectTracker(pid, memory)

    def send(self, replica, rounds):
        for region, target, runs in zip(self.memory.regions, replica.regions, rounds, strict=True):
            for start, count in runs.tolist():
                target.pages[start : start + count] = region.pages[start : start + count]


class Compared:
    """Who sends enters what goes out, and the memory is compared with that."""

    def __init__(self, pid, memory):
        self.memory = memory
        self.leaves = SentLeaves([region.page_count for region in memory.regions])
        self.tracker = DigestTracker(pid, memory, self.leaves)

    def send(self, replica, rounds):
        for index, (region, runs) in enumerate(zip(self.memory.regions, rounds, strict=True)):
            self.leaves.begin(index, runs)
            for numbers in np.array_split(numbers_in(runs), 3):
                copies = region.pages[numbers]
                self.leaves.add(index, numbers, copies)
                replica.regions[index].pages[numbers] = copies
