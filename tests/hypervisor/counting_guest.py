"""A tiny guest: stamps memory at each step, answers requests from a counter that lives in RAM.

Requests: ``count``, ``count …`` -> the counter's next value; ``stamp REGION PAGE VALUE``;
``readinto REGION PAGE COUNT`` (the kernel writes); ``read REGION PAGE``; ``idle 0|1``; ``fail``;
``exit``; ``short`` (one reply too few); ``long`` (a reply beyond the limit); ``env NAME``; ``work``
(a step that goes on, and says so in page 1, until somebody wants the guest to stop).
"""

import os
import struct
import time
from pathlib import Path

PAGE = 4096
WORK_S_MAX = 30.0


class CountingGuest:
    """Everything that lasts is in RAM: page 0 holds the counter, and whether it is idle."""

    def boot(self, machine):
        self._attach(machine)
        self.idle = True

    def load(self, machine, checkpoint):
        self._attach(machine)
        (counted, idle) = struct.unpack("<Q?", checkpoint)
        assert counted == self.counter, "the checkpoint is not of this memory"
        self.idle = idle

    def save(self):
        return struct.pack("<Q?", self.counter, self.idle)

    def step(self, requests):
        self.steps += 1
        if not self.idle:
            page = 8 + self.steps % 64
            self.regions[0][page * PAGE : page * PAGE + 8] = struct.pack("<Q", self.steps)
        replies = [self._answer(*request.decode().split()) for request in requests]
        return replies[:-1] if b"short" in requests else replies

    @property
    def counter(self):
        return struct.unpack_from("<Q", self.regions[0])[0]

    def _attach(self, machine):
        self.machine = machine
        self.regions = [machine.ram, *(vgpu.framebuffer for vgpu in machine.vgpus)]
        self.steps = 0

    def _answer(self, verb, *arguments):
        return getattr(self, f"_{verb}")(*arguments)

    def _count(self, *_):
        struct.pack_into("<Q", self.regions[0], 0, self.counter + 1)
        return str(self.counter).encode()

    def _stamp(self, region, page, value):
        start = int(page) * PAGE
        self.regions[int(region)][start : start + 8] = struct.pack("<Q", int(value))
        return b"stamped"

    def _readinto(self, region, page, count):
        start = int(page) * PAGE
        with Path("/dev/urandom").open("rb", buffering=0) as source:
            taken = source.readinto(self.regions[int(region)][start : start + int(count) * PAGE])
        return str(taken).encode()

    def _read(self, region, page):
        start = int(page) * PAGE
        return bytes(self.regions[int(region)][start : start + 8])

    def _idle(self, flag):
        self.idle = flag == "1"
        return b"ok"

    def _env(self, name):
        return os.environ.get(name, "").encode()

    def _work(self):
        give_up_s = time.monotonic() + WORK_S_MAX
        while not self.machine.stop_wanted:
            if time.monotonic() > give_up_s:
                return b"nobody wanted it to stop"
            self._stamp(0, 1, 1)
        return b"stopped"

    def _fail(self):
        raise ValueError("told to fail")

    def _exit(self):
        raise SystemExit(3)

    def _short(self):
        return b"never seen"

    def _long(self):
        return bytes(2_000_000)
