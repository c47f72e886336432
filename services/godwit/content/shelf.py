"""What a host holds for one arriving machine: files of chunks, and which chunk is where.

``transfer.port.Content``. Where these files come from is not known here.
"""

from __future__ import annotations

import asyncio
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

Find: TypeAlias = Callable[[Callable[[Holding], None]], Awaitable[None]]
"""Opens what is held, and hands each over at once: it is the shelf's to close."""

_log = structlog.get_logger(__name__)


class Shelf:
    """Used on one event loop; ``fill`` by any thread. What is on it is open until ``close``."""

    def __init__(self, find: Find, for_s: float) -> None:
        """Begin to find what is held, then to digest what is not known of it and what is known for
        long, for ``for_s`` at most.
        """
        self._holdings: list[Holding] = []
        self._places: dict[bytes, list[tuple[Holding, int]]] = {}
        self._closed = False
        self._stocking = asyncio.create_task(self._stock(find, for_s))

    async def stocked(self) -> bool:
        """Wait until all is found that will be. Whether any chunk can be filled."""
        await asyncio.shield(self._stocking)
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
        self._closed = True
        await asyncio.wait({self._stocking})
        self._places = {}
        while self._holdings:
            os.close(self._holdings.pop().fd)

    async def _stock(self, find: Find, for_s: float) -> None:
        deadline = time.monotonic() + for_s
        try:
            await find(self._holdings.append)
        except (GodwitError, OSError) as error:  # then all of it travels, as it would anyway
            _log.warning("content_not_found", error=str(error))
        if self._holdings:
            await asyncio.to_thread(self._index, deadline)

    def _index(self, deadline: float) -> None:
        buffer = memoryview(bytearray(CHUNK_BYTES))
        for holding, chunk in self._to_learn(deadline):
            if self._closed or time.monotonic() > deadline:
                break
            holding.learn(chunk, buffer)
        self._places = self._found()

    def _to_learn(self, now_s: float) -> list[tuple[Holding, int]]:
        """The unknown first, then the oldest."""
        wanted: list[tuple[float, Holding, int]] = []
        for holding in self._holdings:
            for chunk in holding.whole_chunks():
                known = holding.known.get(chunk)
                if known is None:
                    wanted.append((0.0, holding, chunk))
                elif holding.is_memory and known.at_s < now_s - FRESH_S:
                    wanted.append((known.at_s, holding, chunk))
        wanted.sort(key=lambda each: each[0])
        return [(holding, chunk) for _, holding, chunk in wanted]

    def _found(self) -> dict[bytes, list[tuple[Holding, int]]]:
        places: dict[bytes, list[tuple[Holding, int]]] = defaultdict(list)
        for holding in self._holdings:
            for chunk, known in list(holding.known.items()):
                at = places[known.digest]
                if len(at) < CANDIDATES_MAX:
                    at.append((holding, chunk))
        return dict(places)
