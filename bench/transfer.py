"""How fast do pages move, and against what? The data plane alone, between two processes.

Peer: a bare ``sendfile`` -> ``recv_into`` loop over the same populated memory, in the same run,
turn by turn. Reported are medians, spreads, and the ratio of each case to the bare loop. Both
memories are populated before: the first touch of a page is a matter of the prepare step.

    python bench/transfer.py [--size-mib 1024] [--repeats 5] [--json FILE] [--profile]
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import mmap
import multiprocessing
import os
import pstats
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from godwit.transfer.listener import LinkListener
from godwit.transfer.outgoing import RegionWork
from godwit.transfer.partition import PageView, Runs
from godwit.transfer.receiver import IncomingSession
from godwit.transfer.sender import BulkSender
from godwit_protocol.bulk import FIRST_ROUND, BulkLink
from godwit_protocol.machine import PAGE_BYTES

SESSION, TOKEN = b"bench---", bytes(32)
BARE_CHUNK_BYTES = 2 << 20
MADV_POPULATE_WRITE = 23


@dataclass(frozen=True)
class Memory:
    fd: int
    mapping: mmap.mmap
    pages: PageView

    @classmethod
    def populated(cls, size_bytes: int) -> Memory:
        fd = os.memfd_create("bench")
        os.ftruncate(fd, size_bytes)
        mapping = mmap.mmap(fd, size_bytes)
        mapping.madvise(MADV_POPULATE_WRITE)
        return cls(fd, mapping, np.frombuffer(mapping, np.uint8).reshape(-1, PAGE_BYTES))

    def randomise(self) -> None:
        block = np.random.default_rng(1).integers(0, 256, (4096, PAGE_BYTES), np.uint8)
        for start in range(0, len(self.pages), len(block)):
            part = self.pages[start : start + len(block)]
            part[:] = block[: len(part)]
            part[:, :8] = np.arange(start, start + len(part)).view(np.uint8).reshape(-1, 8)


@dataclass(frozen=True)
class Result:
    case: str
    gbit_per_second: list[float]
    median: float
    ratio_to_bare: float
    source_rss_mib: float
    destination_rss_mib: float


def rss_above_mapping_mib() -> float:
    """This process's own memory now: what is resident, less what is shared (the region)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024


# The destination is a process of its own. It is told what comes next, and says when it is there.


def destination(commands: Connection, size_bytes: int) -> None:
    memory = Memory.populated(size_bytes)
    while (command := commands.recv()) is not None:
        kind, argument = command
        if kind == "bare":
            bare_destination(commands, memory)
        elif kind == "godwit":
            asyncio.run(godwit_destination(commands, memory, *argument))
        else:
            checksum = int(memory.pages.view(np.uint64).sum())
            commands.send((checksum, rss_above_mapping_mib()))


def bare_destination(commands: Connection, memory: Memory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        commands.send(server.getsockname()[1])
        sock, _ = server.accept()
        with sock, memoryview(memory.mapping) as view:
            for start in range(0, len(view), BARE_CHUNK_BYTES):
                part = view[start : start + BARE_CHUNK_BYTES]
                assert sock.recv_into(part, 0, socket.MSG_WAITALL) == len(part)
            commands.send("there")


async def godwit_destination(
    commands: Connection, memory: Memory, connections: int, digested: bool
) -> None:
    link = BulkLink(SESSION, connections, (len(memory.pages),), digested)
    listener = await LinkListener.open("127.0.0.1")
    session = IncomingSession(link, [memory.pages])
    listener.expect(SESSION, TOKEN, lambda reader, writer: writer.close())
    listener.admit_bulk(session)
    commands.send(listener.port)
    await session.connected()
    commands.send("connected")
    await session.round_applied(FIRST_ROUND)
    commands.send("there")
    await session.close()
    await listener.close()


class Source:
    def __init__(self, commands: Connection, size_bytes: int) -> None:
        self.commands = commands
        self.memory = Memory.populated(size_bytes)
        self.memory.randomise()

    def bare(self, send_all: Callable[[socket.socket], None]) -> float:
        self.commands.send(("bare", None))
        with socket.create_connection(("127.0.0.1", self.commands.recv())) as sock:
            started = time.perf_counter()
            send_all(sock)
            self.commands.recv()
            return len(self.memory.mapping) * 8 / (time.perf_counter() - started) / 1e9

    def sendfile(self, sock: socket.socket) -> None:
        offset, end = 0, len(self.memory.mapping)
        while offset < end:
            offset += os.sendfile(sock.fileno(), self.memory.fd, offset, end - offset)

    def sendall(self, sock: socket.socket) -> None:
        with memoryview(self.memory.mapping) as view:
            for start in range(0, len(view), BARE_CHUNK_BYTES):
                sock.sendall(view[start : start + BARE_CHUNK_BYTES])

    def godwit(self, connections: int, runs: Runs, *, digested: bool = False) -> float:
        self.commands.send(("godwit", (connections, digested)))
        link = BulkLink(SESSION, connections, (len(self.memory.pages),), digested)
        sender = BulkSender.connect("127.0.0.1", self.commands.recv(), link, TOKEN)
        self.commands.recv()
        work = RegionWork(0, self.memory.pages, runs)
        started = time.perf_counter()
        sent = sender.send_round(FIRST_ROUND, [work])
        self.commands.recv()
        duration_s = time.perf_counter() - started
        sender.close()
        return sent.sent_bytes * 8 / duration_s / 1e9

    def check_equal(self) -> float:
        """Compare both memories; return the destination's own memory in MiB."""
        self.commands.send(("checksum", None))
        checksum, rss_mib = self.commands.recv()
        assert checksum == int(self.memory.pages.view(np.uint64).sum()), "memories differ"
        return float(rss_mib)


def cases(source: Source) -> dict[str, Callable[[], float]]:
    page_count = len(source.memory.pages)
    whole = np.array([[0, page_count]], dtype=np.int64)

    def every(stride: int, count: int) -> Runs:
        first = np.arange(0, page_count - count + 1, stride, dtype=np.int64)
        return np.column_stack((first, np.full(len(first), count, np.int64)))

    return {
        "bare sendfile -> recv_into": lambda: source.bare(source.sendfile),
        "bare sendall -> recv_into": lambda: source.bare(source.sendall),
        "all pages, 1 connection": lambda: source.godwit(1, whole),
        "all pages, 2 connections": lambda: source.godwit(2, whole),
        "all pages, 4 connections": lambda: source.godwit(4, whole),
        "all pages, 1 connection, wire": lambda: source.godwit(1, whole, digested=True),
        "all pages, 2 connections, wire": lambda: source.godwit(2, whole, digested=True),
        "runs of 32 pages, 1 connection": lambda: source.godwit(1, every(40, 32)),
        "runs of 16 pages, 1 connection": lambda: source.godwit(1, every(20, 16)),
        "runs of 15 pages, 1 connection": lambda: source.godwit(1, every(20, 15)),
        "every other page, 1 connection": lambda: source.godwit(1, every(2, 1)),
        "every other page, 2 connections": lambda: source.godwit(2, every(2, 1)),
        "every other page, 2 connections, wire": lambda: source.godwit(
            2, every(2, 1), digested=True
        ),
    }


@contextmanager
def two_processes(size_bytes: int) -> Iterator[Source]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=destination, args=(theirs, size_bytes))
    process.start()
    try:
        yield Source(ours, size_bytes)
    finally:
        ours.send(None)
        process.join(30)


def measure(size_bytes: int, repeats: int) -> list[Result]:
    with two_processes(size_bytes) as source:
        by_case = cases(source)
        speeds: dict[str, list[float]] = {case: [] for case in by_case}
        for _ in range(repeats):
            for case, run in by_case.items():
                speeds[case].append(round(run(), 2))
        destination_mib = source.check_equal()
        medians = {case: statistics.median(speeds[case]) for case in by_case}
        bare = next(iter(medians.values()))
        return [
            Result(
                case,
                speeds[case],
                medians[case],
                round(medians[case] / bare, 3),
                round(rss_above_mapping_mib(), 1),
                round(destination_mib, 1),
            )
            for case in by_case
        ]


def profile(size_bytes: int) -> None:
    """Where the source's Python time goes, for the case with the most frames a byte."""
    with two_processes(size_bytes) as source:
        runs = cases(source)
        for case in ("all pages, 1 connection", "every other page, 1 connection"):
            recorded = cProfile.Profile()
            # The sending thread is the one to look at: profile it, and not the one that waits.
            original = BulkSender._on_every_connection

            def inline(sender: BulkSender, act: Any) -> list[Any]:
                return [recorded.runcall(act, each) for each in sender._outgoing]  # noqa: B023

            BulkSender._on_every_connection = inline  # type: ignore[assignment, method-assign]
            runs[case]()
            BulkSender._on_every_connection = original  # type: ignore[method-assign]
            print(f"\n{case}, {size_bytes >> 20} MiB = {size_bytes // PAGE_BYTES} pages")
            pstats.Stats(recorded).sort_stats("tottime").print_stats(8)


def print_table(results: list[Result]) -> None:
    print(f"{'case':34} {'Gbit/s':>7} {'min':>7} {'max':>7} {'of bare':>8}")
    for result in results:
        low, high = min(result.gbit_per_second), max(result.gbit_per_second)
        print(
            f"{result.case:34} {result.median:7.2f} {low:7.2f} {high:7.2f}"
            f" {result.ratio_to_bare:8.2f}"
        )
    last = results[-1]
    print(
        f"own memory: source {last.source_rss_mib} MiB, destination {last.destination_rss_mib} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the results there")
    parser.add_argument("--profile", action="store_true", help="profile the source instead")
    arguments = parser.parse_args()
    size_bytes = arguments.size_mib << 20
    if arguments.profile:
        profile(size_bytes)
        return
    results = measure(size_bytes, arguments.repeats)
    print_table(results)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(each) for each in results], indent=2) + "\n")


if __name__ == "__main__":
    main()
