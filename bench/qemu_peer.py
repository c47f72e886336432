"""QEMU's own migration of a guest that writes memory at a rate, under emulation, over loopback.

No limit of bandwidth, and no disk. As it comes, with ``-m`` and no more, its destination's memory
is backed as bytes arrive; populated before, which an operator must ask for, it is much faster. The
guest is ``qemu_guest.s``, forty instructions without an operating system.
"""

from __future__ import annotations

import base64
import json
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ending import DIES_WITH_US

PROGRAM = "qemu-system-x86_64"
PAGE_BYTES = 4096
TICKS_A_SECOND = 1_193_182
BATCHES_A_SECOND = 1000
FIRST_BYTE = 2 << 20
IMAGE_BYTES = 4096
"""As the multiboot header says."""
BOOT_S_MAX = 120.0
MIGRATE_S_MAX = 240.0
WRITTEN_ADDRESS = 0x100034
RATE_S = 1.0
RESUME_S_MAX = 30.0
_PARAMETERS_AT = 0x20
_CODE = base64.b64decode(
    "ArCtGwAAAQD+T1HkAAAQAAAAEAAAEBAAAAAAAFwAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAP//"
    "AAAAms8A//8AAACSzwAXADgAEAAHAQCAAAC8AJAAAA8BFVAAEADqbwAQAAgAZrgQAI7YjsCO0PyLPSAAEACJ+A2l"
    "BQAAuQAEAADzqzs9JAAQAHLqvwCAAAAxwLlCAAAA86u4KwEQALsAAAgAZonDiR0AgQAAZrgAjqMEgQAADwEdVgAQ"
    "ALAR5iCwIOYhsATmIbAB5iGw/uYhsDTmQ6EwABAA5kCI4OZAsFLm6bsBAAAA+/SLDSwAEADj9mnbDWYZAIHDX/Nu"
    "PInY9yUoABAAweIMAxUgABAAiRri36EsABAAAQU0ABAA68hQsCDmIFjP"
)
"""``qemu_guest.s``, assembled."""


@dataclass(frozen=True)
class Writes:
    """What the guest writes: so many bytes a second, in pages of the first ``hot_mib``."""

    bytes_per_second: int
    hot_mib: int


@dataclass(frozen=True)
class Migrated:
    """What QEMU says of its migration, and the rate that its guest was seen to write at before.

    ``stun_ms``: from the source's STOP to the destination's RESUME, on the one clock that both
    have; what QEMU calls downtime ends on the source, before the destination runs.
    """

    stun_ms: float
    downtime_ms: float
    bytes_per_second: float
    total_s: float
    rounds: int
    written_bytes_per_second: float


def migrated(
    folder: Path, size_mib: int, writes: Writes, *, downtime_limit_ms: int, populated: bool
) -> Migrated:
    """Boot the guest, and have QEMU migrate it once. Raises ``RuntimeError`` if that fails.

    ``populated``: the destination's memory is, before anything arrives; and both are shared memory,
    which is faster than what QEMU takes if it is not told. Else it is as it comes.
    """
    kernel = folder / "guest.bin"
    kernel.write_bytes(_guest(size_mib, writes))
    with (
        _qemu(folder / "source", size_mib, kernel, *_memory(size_mib, populated)) as source,
        _qemu(
            folder / "destination",
            size_mib,
            kernel,
            *_memory(size_mib, populated, prealloc="on"),
            *("-incoming", "defer"),
        ) as destination,
    ):
        source.wait_until_it_writes()
        rate = source.written_bytes_per_second()
        with socket.create_server(("127.0.0.1", 0)) as free:
            uri = f"tcp:127.0.0.1:{free.getsockname()[1]}"
        destination.ask("migrate-incoming", uri=uri)
        source.ask(
            "migrate-set-parameters",
            **{"max-bandwidth": 1 << 40, "downtime-limit": downtime_limit_ms},
        )
        source.ask("migrate", uri=uri)
        return followed(source, destination, rate)


def followed(source: Qemu, destination: Qemu, rate: float) -> Migrated:
    """Follow a migration to its end. Raises ``RuntimeError`` if it fails. ``rate``: bytes a second
    that the guest was seen to write.
    """
    deadline = time.monotonic() + MIGRATE_S_MAX
    while time.monotonic() < deadline:
        told = source.ask("query-migrate")
        if told.get("status") == "completed":
            ram, total_s = told["ram"], told["total-time"] / 1e3
            spent_s = total_s - told["downtime"] / 1e3
            return Migrated(
                stun_ms=(destination.moment("RESUME") - source.moment("STOP")) * 1e3,
                downtime_ms=float(told["downtime"]),
                bytes_per_second=ram["transferred"] / spent_s,
                total_s=total_s,
                rounds=ram["dirty-sync-count"],
                written_bytes_per_second=rate,
            )
        if told.get("status") in ("failed", "cancelled"):
            break
        time.sleep(0.02)
    raise RuntimeError(f"QEMU's migration did not complete: {told}")


def _guest(size_mib: int, writes: Writes) -> bytes:
    """The kernel's image, with its words patched in."""
    batch = round(writes.bytes_per_second / PAGE_BYTES / BATCHES_A_SECOND)
    words = (
        FIRST_BYTE,
        (size_mib << 20) - (1 << 20),
        writes.hot_mib * (1 << 20) // PAGE_BYTES,
        batch,
        TICKS_A_SECOND // BATCHES_A_SECOND,
        0,
    )
    packed = struct.pack("<6I", *words)
    image = _CODE[:_PARAMETERS_AT] + packed + _CODE[_PARAMETERS_AT + len(packed) :]
    return image.ljust(IMAGE_BYTES, b"\0")


class Qemu:
    """One QEMU process, by its monitor."""

    def __init__(self, folder: Path) -> None:
        self._console = folder / "console"
        self._sock = _connected(folder / "monitor")
        self._lines = self._sock.makefile("r", encoding="utf-8")
        self._moments: dict[str, float] = {}
        self._lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        """Run a command of the monitor. Raises ``RuntimeError`` if it refuses."""
        self._sock.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while "return" not in (told := self._heard()):
            if "error" in told:
                raise RuntimeError(f"{command}: {told['error']}")
        return told["return"]

    def moment(self, event: str) -> float:
        """When an event came last, seconds of the wall clock; waits for the first."""
        deadline = time.monotonic() + RESUME_S_MAX
        while event not in self._moments:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no {event} came")
            self.ask("query-status")
        return self._moments[event]

    def wait_until_it_writes(self) -> None:
        """All memory is filled, and the timer runs."""
        deadline = time.monotonic() + BOOT_S_MAX
        while time.monotonic() < deadline:
            if self._console.exists() and self._console.read_bytes() == b"R":
                return
            time.sleep(0.02)
        raise RuntimeError("the guest does not come up")

    def written_bytes_per_second(self) -> float:
        """What the guest writes, seen from outside for ``RATE_S``."""
        before, began = self._written(), time.monotonic()
        time.sleep(RATE_S)
        return (self._written() - before) * PAGE_BYTES / (time.monotonic() - began)

    def close(self) -> None:
        """End it."""
        with suppress(OSError, RuntimeError, ValueError):
            self.ask("quit")
        self._lines.close()
        self._sock.close()

    def _written(self) -> int:
        line = f"xp /1wx {WRITTEN_ADDRESS:#x}"
        told = self.ask("human-monitor-command", **{"command-line": line})
        return int(told.split(":")[1].split()[0], 16)

    def _heard(self) -> dict[str, Any]:
        """The next thing that the monitor says; of events, when they came is kept."""
        told: dict[str, Any] = json.loads(self._lines.readline())
        if "event" in told:
            at = told["timestamp"]
            self._moments[told["event"]] = at["seconds"] + at["microseconds"] / 1e6
        return told


def _memory(size_mib: int, populated: bool, prealloc: str = "off") -> tuple[str, ...]:
    """Words for QEMU; none for what it does by itself."""
    if not populated:
        return ("-machine", "pc")
    backend = f"memory-backend-memfd,id=ram,size={size_mib}M,prealloc={prealloc}"
    return ("-object", backend, "-machine", "pc,memory-backend=ram")


@contextmanager
def _qemu(folder: Path, size_mib: int, kernel: Path, *more: str) -> Iterator[Qemu]:
    folder.mkdir()
    words = [*DIES_WITH_US, PROGRAM, "-nodefaults", "-display", "none", "-accel", "tcg"]
    words += ["-m", f"{size_mib}M", "-kernel", str(kernel)]
    words += ["-debugcon", f"file:{folder / 'console'}"]
    words += ["-qmp", f"unix:{folder / 'monitor'},server=on,wait=off", *more]
    process = subprocess.Popen(words)
    try:
        opened = Qemu(folder)
        yield opened
        opened.close()
        process.wait(10)
    finally:
        process.kill()
        process.wait()


def _connected(path: Path) -> socket.socket:
    deadline = time.monotonic() + BOOT_S_MAX
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(path))
        except OSError:
            sock.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return sock
