"""What Godwit is held against: a bare loop of system calls, iperf3, and how they get here.

None of them knows Godwit. Each works on memory of its own, populated before it is measured.
"""

from __future__ import annotations

import json
import mmap
import multiprocessing
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from ending import DIES_WITH_US

MADV_POPULATE_WRITE = 23
CHUNK_BYTES = 2 << 20
PROGRAMS = {"iperf3": "iperf3", "qemu-system-x86_64": "qemu-system-x86"}
"""By program, its Debian package."""
INSTALL_S_MAX = 600
ANSWER_S_MAX = 60.0
"""Of the bare loop's other process: it starts, populates its memory, and ends, each within that."""


def has(program: str) -> bool:
    """Whether a peer is installed."""
    return shutil.which(program) is not None


def missing() -> list[str]:
    """The peers that are not installed."""
    return [program for program in PROGRAMS if not has(program)]


def without(measured: bool, peer: str) -> list[str]:
    """What a table says of a peer that was not measured."""
    return [] if measured else [f"Without {peer}, which is not installed."]


def install() -> list[str]:
    """Install what is missing from Debian, as root; returns what is missing still, and why not."""
    lacking = missing()
    if not lacking:
        return []
    packages = [PROGRAMS[program] for program in lacking]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return [f"{', '.join(lacking)}: as root, apt-get install {' '.join(packages)}"]
    base = ("apt-get", "-o", "DPkg::Lock::Timeout=300", "-qq")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (("update",), ("install", "-y", "--no-install-recommends", *packages)):
        subprocess.run([*base, *words], env=environ, check=False, timeout=INSTALL_S_MAX)
    return [f"{program}: apt-get could not install {PROGRAMS[program]}" for program in missing()]


@dataclass(frozen=True)
class Memory:
    """Populated pages that are not zero."""

    fd: int
    mapping: mmap.mmap

    @classmethod
    def populated(cls, size_bytes: int) -> Memory:
        """Memory of a memfd, every page of it touched."""
        fd = os.memfd_create("bench")
        os.ftruncate(fd, size_bytes)
        mapping = mmap.mmap(fd, size_bytes)
        mapping.madvise(MADV_POPULATE_WRITE)
        return cls(fd, mapping)

    def randomise(self) -> None:
        """Fill it with what does not compress, a block again and again."""
        block = np.random.default_rng(1).integers(0, 256, CHUNK_BYTES, np.uint8)
        pages = np.frombuffer(self.mapping, np.uint8)
        for start in range(0, len(pages), len(block)):
            part = pages[start : start + len(block)]
            part[:] = block[: len(part)]


def populating_s(size_bytes: int) -> float:
    """What ``MADV_POPULATE_WRITE`` of so much takes alone, memory that nobody has touched."""
    with mmap.mmap(-1, size_bytes, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS) as mapping:
        began = time.perf_counter()
        mapping.madvise(MADV_POPULATE_WRITE)
        return time.perf_counter() - began


class BareLoop:
    """``sendfile`` from one process into ``recv_into`` of another, again and again."""

    def __init__(self, commands: Connection, receiver: BaseProcess, size_bytes: int) -> None:
        """Use ``bare_loop`` instead."""
        self._commands = commands
        self._receiver = receiver
        self._memory = Memory.populated(size_bytes)
        self._memory.randomise()

    def bytes_per_second(self) -> float:
        """Move all of it once. Raises ``RuntimeError`` if the other process has died, and
        ``TimeoutError`` if it does not answer.
        """
        self._commands.send(True)
        with socket.create_connection(("127.0.0.1", self._answer())) as sock:
            began = time.perf_counter()
            offset, end = 0, len(self._memory.mapping)
            while offset < end:
                offset += os.sendfile(sock.fileno(), self._memory.fd, offset, end - offset)
            self._answer()
            return end / (time.perf_counter() - began)

    def _answer(self) -> Any:
        """What the other process says. Its end of the pipe is ours too, so that its death is no end
        of what can be read.
        """
        ready = wait([self._commands, self._receiver.sentinel], ANSWER_S_MAX)
        if self._commands in ready:
            return self._commands.recv()
        if not ready:
            raise TimeoutError(f"the bare loop's receiver says nothing for {ANSWER_S_MAX:g} s")
        self._receiver.join(ANSWER_S_MAX)  # the status may come after the end
        raise RuntimeError(f"the bare loop's receiver has ended: {self._receiver.exitcode}")


@contextmanager
def bare_loop(size_bytes: int) -> Iterator[BareLoop]:
    """The loop, with its receiver in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_receive, args=(theirs, size_bytes))
    process.start()
    try:
        yield BareLoop(ours, process, size_bytes)
    finally:
        ours.send(False)
        process.join(ANSWER_S_MAX)
        process.kill()  # one that does not end by itself
        process.join()


def _receive(commands: Connection, size_bytes: int) -> None:
    memory = Memory.populated(size_bytes)
    with memoryview(memory.mapping) as view:
        while commands.recv():
            with socket.create_server(("127.0.0.1", 0)) as server:
                commands.send(server.getsockname()[1])
                sock, _ = server.accept()
            with sock:
                for start in range(0, len(view), CHUNK_BYTES):
                    part = view[start : start + CHUNK_BYTES]
                    while part:
                        part = part[sock.recv_into(part, 0, socket.MSG_WAITALL) :]
                commands.send(True)


def iperf3_bytes_per_second(seconds: int) -> float:
    """``iperf3 -Z`` over loopback: one warm buffer, sent again and again; 0 s would be for ever."""
    assert seconds > 0
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    words = [*DIES_WITH_US, "iperf3", "-s", "-1", "-p", port, "-B", "127.0.0.1"]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        _wait_for(int(port))
        client = ("iperf3", "-c", "127.0.0.1", "-p", port, "-Z", "-J", "-t", str(seconds))
        done = subprocess.run(client, capture_output=True, check=True, timeout=seconds + 30)
        told = json.loads(done.stdout)
        return float(told["end"]["sum_received"]["bits_per_second"]) / 8
    finally:
        server.terminate()
        server.wait(10)


def _wait_for(port: int) -> None:
    """Until somebody listens, as the kernel says: a connection would be the one that it takes."""
    wanted = f"0100007F:{port:04X} 00000000:0000 0A"
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if wanted in Path("/proc/net/tcp").read_text(encoding="ascii"):
            return
        time.sleep(0.02)
    raise TimeoutError("iperf3 does not listen")
