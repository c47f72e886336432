"""GPUs through NVML: the port's adapter for a host with a driver.

NVML can hang on a broken GPU: one thread asks it, and is waited for with a deadline. A GPU that is
lost, or that needs a reset, is unreadable as a whole; the others are told all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import structlog

from godwit_protocol.catalogue import Catalogue
from godwit_protocol.events.machine import GpuInventory
from godwit_protocol.facts import DeclaredFacts, GpuTelemetry, NvmlVerdict

from . import joining, judging
from .asking import Asker
from .library import Library, NvmlError
from .port import GpuLook
from .reading import inventory, telemetry
from .xids import Xids

LOOK_S_MAX: Final = 20.0
"""How long one look may take before the GPUs count as unreadable."""

T = TypeVar("T")
_log: Final = structlog.get_logger(__name__)


class NvmlGpus:
    """The port, over NVML or what stands in for it."""

    simulated = False

    def __init__(
        self, open_library: Callable[[], Library], catalogue: Catalogue, declared: DeclaredFacts
    ) -> None:
        """``open_library`` is tried again at each look for as long as it raises ``NvmlError``."""
        self._open_library = open_library
        self._catalogue = catalogue
        self._declared = declared
        self._opened: tuple[Library, Xids] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nvml")
        self._asked: asyncio.Future[Any] | None = None

    async def look(self) -> GpuLook:
        """As ``GpuSource.look``."""
        silent = GpuLook(gpus=(), unreadable=(f"NVML did not answer within {LOOK_S_MAX:g} s",))
        return await self._ask(self.look_now, silent)

    async def judge(self, targets: Sequence[bytes]) -> tuple[NvmlVerdict, ...]:
        """As ``GpuSource.judge``."""
        return await self._ask(lambda: self.judge_now(targets), ())

    async def _ask(self, work: Callable[[], T], silent: T) -> T:
        """Let the thread do it; ``silent`` if it does not, or hangs in what it was asked before."""
        if self._asked is not None and not self._asked.done():
            return silent
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        self._asked = future
        try:
            async with asyncio.timeout(LOOK_S_MAX):
                return await asyncio.shield(future)
        except TimeoutError:
            _log.error("nvml_is_silent", for_s=LOOK_S_MAX)
            return silent

    def look_now(self) -> GpuLook:
        """One look, by the calling thread."""
        try:
            library, xids = self._opened or self._open()
            driver = library.ask("nvmlSystemGetDriverVersion")
            count = library.ask("nvmlDeviceGetCount")
            xids.read()
        except NvmlError as error:
            self._opened = None  # the driver may have been replaced under us
            return GpuLook(gpus=(), unreadable=(error.message,))
        return self._look(library, xids, driver, count)

    def judge_now(self, targets: Sequence[bytes]) -> tuple[NvmlVerdict, ...]:
        """Ask for verdicts, by the calling thread."""
        return () if self._opened is None else judging.verdicts(self._opened[0], targets)

    def _open(self) -> tuple[Library, Xids]:
        library = self._open_library()
        self._opened = library, Xids(library)
        return self._opened

    def _look(self, library: Library, xids: Xids, driver: str, count: int) -> GpuLook:
        gpus: list[GpuInventory] = []
        unreadable: list[str] = []
        health: list[GpuTelemetry] = []
        for index in range(count):
            try:
                gpu, seen = self._see(library, xids, index)
            except NvmlError as error:
                unreadable.append(f"GPU {index}: {error.message}")
            else:
                gpus.append(gpu)
                health.append(seen)
        joined = joining.with_peers(library, gpus)
        return GpuLook(joined, driver, tuple(unreadable), tuple(health))

    def _see(self, library: Library, xids: Xids, index: int) -> tuple[GpuInventory, GpuTelemetry]:
        """Raises ``NvmlError`` if the GPU tells nothing."""
        device = library.ask("nvmlDeviceGetHandleByIndex", index)
        asker = Asker(library)
        errors = xids.of(index, device, asker)
        gpu = inventory(asker, index, device, self._catalogue, self._declared, errors)
        return gpu, telemetry(Asker(library), gpu, device)
