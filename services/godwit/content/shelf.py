"""What a host holds for one arriving machine: files of chunks, and which chunk is where.

``transfer.port.Content``. Where these files come from is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import structlog

from godwit.transfer.digest import chunk_digest
from godwit_protocol.errors import GodwitError

from .holding import CHUNK_BYTES, Holding

FRESH_S: Final = 30.0
"""For so long a digest of memory is not taken again."""
CANDIDATES_MAX: Final = 4
"""Chunks of one digest that are tried: all may have changed since."""
WAIT_BYTES_PER_SECOND: Final = 1 << 29
"""An arrival waits for what is not known yet as long as its bytes take at this rate, and then some:
it may save as much.
"""
WAIT_S_MIN: Final = 0.25
WAIT_S_MAX: Final = 3.0

Find: TypeAlias = Callable[[Callable[[Holding], None]], Awaitable[None]]
"""Opens what is held, and hands each over at once: it is the shelf's to close."""
_Places: TypeAlias = dict[bytes, list[tuple[Holding, int]]]

_log = structlog.get_logger(__name__)


class Shelf:
    """Used on one event loop; ``fill`` by any thread. What is on it is open until ``close``."""

    def __init__(self, find: Find) -> None:
        """Begin to find what is held, then to digest what is not known of it, then what is known
        for long; until ``stocked`` or ``close``.
        """
        self._holdings: list[Holding] = []
        self._places: _Places = {}
        self._has_learnt = asyncio.Event()
        """All that was not known is."""
        self._may_learn = True
        self._stocking = asyncio.create_task(self._stock(find))

    async def stocked(self, machine_bytes: int) -> bool:
        """Wait for what is not known yet, as long as pays for an arriving machine of that size;
        nothing is digested for later after that. Whether any chunk can be filled.
        """
        wait_s = min(WAIT_S_MIN + machine_bytes / WAIT_BYTES_PER_SECOND, WAIT_S_MAX)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._has_learnt.wait()
        await self._end_stocking()
        self._places = await asyncio.to_thread(self._found)
        return bool(self._places)

    def fill(self, digest: bytes, place: memoryview) -> bool:
        """See ``transfer.port.Content``."""
        for holding, chunk in self._places.get(digest, ()):
            if holding.read(chunk, place) and chunk_digest(place) == digest:
                return True
        return False

    async def close(self) -> None:
        """Let go of the files. Nothing may fill any more. Idempotent; waits for what is being found
        or digested just now.
        """
        await self._end_stocking()
        self._places = {}
        open_fds = [holding.fd for holding in self._holdings]
        self._holdings.clear()
        # It frees the memory of machines that have ended meanwhile: gigabytes take their time. Also
        # if this is cancelled they are closed.
        loop = asyncio.get_running_loop()
        await asyncio.shield(loop.run_in_executor(None, _close_all, open_fds))

    async def _end_stocking(self) -> None:
        """Within the time that one chunk takes, or the finding of what is held."""
        self._may_learn = False
        await asyncio.wait({self._stocking})

    async def _stock(self, find: Find) -> None:
        try:
            await find(self._holdings.append)
            await asyncio.to_thread(self._learn, self._unknown)
        except (GodwitError, OSError) as error:  # then all of it travels, as it would anyway
            _log.warning("content_not_found", error=str(error))
        finally:
            self._has_learnt.set()
        await asyncio.to_thread(self._learn, self._old)

    def _learn(self, chunks: Callable[[], list[tuple[Holding, int]]]) -> None:
        buffer = memoryview(bytearray(CHUNK_BYTES))
        for holding, chunk in chunks():
            if not self._may_learn:
                return
            holding.learn(chunk, buffer)

    def _unknown(self) -> list[tuple[Holding, int]]:
        return [
            (holding, chunk)
            for holding in self._holdings
            for chunk in holding.whole_chunks()
            if chunk not in holding.known
        ]

    def _old(self) -> list[tuple[Holding, int]]:
        """The oldest first."""
        now_s = time.monotonic()
        old = [
            (known.at_s, holding, chunk)
            for holding in self._holdings
            if holding.is_memory
            for chunk, known in list(holding.known.items())
            if known.at_s < now_s - FRESH_S
        ]
        old.sort(key=lambda each: each[0])
        return [(holding, chunk) for _, holding, chunk in old]

    def _found(self) -> _Places:
        places: _Places = defaultdict(list)
        for holding in self._holdings:
            for chunk, known in list(holding.known.items()):
                at = places[known.digest]
                if len(at) < CANDIDATES_MAX:
                    at.append((holding, chunk))
        return dict(places)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
