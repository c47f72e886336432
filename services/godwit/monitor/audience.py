"""Those who look at the page live: each has a queue with a bound, and nobody waits for the slow.

Whoever does not keep up is let go; a browser comes back by itself and says what it saw last.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from .picture import News

WATCHERS_MAX: Final = 64
NEWS_MAX: Final = 32
"""That wait for one watcher; with more it is let go."""
QUIET_S: Final = 10.0
"""After so long without news a comment is sent: who is gone is noticed by it."""


class Watcher:
    """One of them."""

    def __init__(self) -> None:
        self._news: asyncio.Queue[bytes] = asyncio.Queue(NEWS_MAX)
        self._is_behind = asyncio.Event()

    def offer(self, frame: bytes) -> None:
        """Queue it, or let the watcher go."""
        try:
            self._news.put_nowait(frame)
        except asyncio.QueueFull:
            self._is_behind.set()

    async def frames(self) -> AsyncIterator[bytes]:
        """What to send, until the watcher is let go."""
        while not self._is_behind.is_set():
            try:
                async with asyncio.timeout(QUIET_S):
                    yield await self._news.get()
            except TimeoutError:
                yield b": nothing new\n\n"


class Audience:
    """All of them."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()

    @property
    def is_full(self) -> bool:
        """Whether nobody more is taken."""
        return len(self._watchers) >= WATCHERS_MAX

    @contextmanager
    def joined(self) -> Iterator[Watcher]:
        """A watcher, from now on told all news."""
        watcher = Watcher()
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def tell(self, news: News) -> None:
        """Tell all of them."""
        frame = framed(news)
        for watcher in self._watchers:
            watcher.offer(frame)


def framed(news: News) -> bytes:
    """One server-sent event, with the place in the log as its id."""
    return b"id: %d\nevent: news\ndata: %s\n\n" % (news.place, msgspec.json.encode(news))
