"""A process with tracked memory that writes what its standard input says: stands in for a VMM.

Each line is a command and is answered by a line, so that its effect is there when it is answered.
"""

import json
import random
import sys
import tempfile

from godwit.hypervisor.native import kernel
from godwit.hypervisor.native.memory import MachineMemory
from godwit_protocol.machine import PAGE_BYTES, RegionSpec


class Writer:
    def __init__(self):
        self.source = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it lasts as long as the process
        self.stamp = 0

    def allocate(self, *sizes):
        specs = [RegionSpec(f"r{index}", pages * PAGE_BYTES) for index, pages in enumerate(sizes)]
        self.memory = MachineMemory.allocate(specs)
        regions = self.memory.regions
        self.tracking = kernel.track_writes([(r.address, r.size_bytes) for r in regions])
        return [[region.fd, region.address] for region in regions]

    def store(self, region, page, count):
        for number in range(page, page + count):
            self.memory.regions[region].pages[number, :8] = self._next_bytes()

    def readinto(self, region, page, count):
        self.source.seek(0)
        self.source.write(bytes(self._next_bytes()) * (count * PAGE_BYTES // 8))
        self.source.seek(0)
        start = page * PAGE_BYTES
        self.source.readinto(self.memory.regions[region].view[start : start + count * PAGE_BYTES])

    def read(self, region, page, count):
        return int(self.memory.regions[region].pages[page : page + count].sum())

    def populate(self, region, page, count):
        address = self.memory.regions[region].address + page * PAGE_BYTES
        kernel.madvise(address, count * PAGE_BYTES, kernel.MADV_POPULATE_WRITE)

    def storm(self, seed, writes):
        """Many writes at random places, with nobody waiting for any of them."""
        chance = random.Random(seed)
        for _ in range(writes):
            region = chance.randrange(len(self.memory.regions))
            page = chance.randrange(self.memory.regions[region].page_count)
            self.store(region, page, 1)

    def comb(self, region):
        """Write every other page."""
        self.memory.regions[region].pages[::2, 0] = 1

    def _next_bytes(self):
        self.stamp += 1
        return memoryview(self.stamp.to_bytes(8, "little"))


def main():
    writer = Writer()
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        print(json.dumps(getattr(writer, verb)(*arguments)), flush=True)


main()
