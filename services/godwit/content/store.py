"""The content store of one host: finds what it holds for a machine that is to come.

Content is shared within a tenant only. What the destination holds is other machines of the tenant
that run here, as ``hypervisor.port.Readable`` gives their memory, and files of chunks below a
directory: those in itself for every tenant, those in a folder with a tenant's name for that one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from godwit.hypervisor.port import Hypervisor, Readable, Vmm, VmmState
from godwit_protocol.errors import GodwitError
from godwit_protocol.machine import MachineSpec

from .holding import CHUNK_BYTES, Digested, Holding, Identity, identity_of
from .shelf import Shelf

ASK_S_MAX: Final = 1.0
"""How long a VMM is waited for: what is silent holds nothing."""
FILES_MAX: Final = 128
"""Files below the directory that are read; the first by name."""
KNOWN_CHUNKS_MAX: Final = 1 << 17
"""Chunks of 256 GiB, whose digests take about 30 MiB; beyond, what was seen least lately is
forgotten.
"""

_log = structlog.get_logger(__name__)


class ContentStore:
    """What one host holds. Used on one event loop."""

    def __init__(self, hypervisor: Hypervisor, directory: Path | None, *, enabled: bool) -> None:
        """``directory``: of files of chunks, if there is one. Not ``enabled``: it gives nothing."""
        self._hypervisor = hypervisor
        self._directory = directory
        self._enabled = enabled
        self._known: dict[Identity, dict[int, Digested]] = {}

    def shelf_for(self, spec: MachineSpec) -> Shelf | None:
        """What this host holds for a machine, being found from now on. The caller closes it.

        None if the store is switched off.
        """
        if not self._enabled:
            return None
        return Shelf(partial(self._find, spec))

    async def _find(self, spec: MachineSpec, take: Callable[[Holding], None]) -> None:
        others = [vmm for vmm in await self._hypervisor.find_all() if vmm.name != spec.name]
        await asyncio.gather(*(self._take_memory(vmm, spec.tenant, take) for vmm in others))
        for path in await asyncio.to_thread(_files_for, self._directory, spec.tenant):
            self._take_file(path, take)
        self._forget()

    async def _take_memory(self, vmm: Vmm, tenant: str, take: Callable[[Holding], None]) -> None:
        if not isinstance(vmm, Readable):
            return
        try:
            async with asyncio.timeout(ASK_S_MAX):
                status = await vmm.status()
                may_share = status.state in (VmmState.RUNNING, VmmState.PAUSED)
                if may_share and status.spec.tenant == tenant:
                    for fd in await vmm.region_files():
                        take(self._holding(fd, is_memory=True))
        except (GodwitError, TimeoutError) as error:
            _log.info("machine_not_read", other=vmm.name, error=str(error))

    def _take_file(self, path: Path, take: Callable[[Holding], None]) -> None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            _log.warning("content_not_read", path=str(path), error=error.strerror)
        else:
            take(self._holding(fd, is_memory=False))

    def _holding(self, fd: int, *, is_memory: bool) -> Holding:
        status = os.fstat(fd)
        identity = identity_of(status, is_memory=is_memory)
        known = self._known.pop(identity, {})
        self._known[identity] = known  # now the last that would be forgotten
        return Holding(fd, status.st_size, is_memory, known)

    def _forget(self) -> None:
        chunks = sum(map(len, self._known.values()))
        while chunks > KNOWN_CHUNKS_MAX:
            chunks -= len(self._known.pop(next(iter(self._known))))


def _files_for(directory: Path | None, tenant: str) -> list[Path]:
    """The files of ``directory`` that have a chunk, and those of the tenant's folder in it."""
    if directory is None:
        return []
    return [*_files_of(directory), *_files_of(directory / tenant)][:FILES_MAX]


def _files_of(folder: Path) -> list[Path]:
    try:
        paths = sorted(folder.iterdir())
        return [path for path in paths if path.is_file() and path.stat().st_size >= CHUNK_BYTES]
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            _log.warning("content_not_read", path=str(folder), error=error.strerror)
        return []
