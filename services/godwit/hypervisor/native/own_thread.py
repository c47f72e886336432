"""One thread for the blocking work with one machine's memory.

A round may take minutes. In the event loop's pool, which has a few threads more than there are
cores, some of those would fill it, and the last round of a machine that is stunned would wait for
them.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from godwit_protocol.errors import AbortedError

P = ParamSpec("P")
T = TypeVar("T")


class OwnThread:
    """Runs one call after the other, in their order. Used on one event loop.

    ``end`` it; one that is forgotten ends when it is collected.
    """

    def __init__(self, name: str) -> None:
        """The thread is there at once: a stun is not to wait until it has begun."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._executor.submit(lambda: None)
        self._last: asyncio.Future[None] | None = None

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As ``asyncio.to_thread``. Raises ``AbortedError`` after ``end``.

        If it is cancelled, the call goes on if it has begun; the next one waits for it.
        """
        if self._last is not None:
            raise AbortedError("its memory was let go of")
        return await self._submitted(partial(work, *args, **kwargs))

    async def end(self, work: Callable[[], None]) -> None:
        """Run ``work``, when all that has begun is over, and end the thread. Idempotent: a second
        call waits for the first. Also if it is cancelled ``work`` is done.
        """
        if self._last is None:
            self._last = self._submitted(work)
            self._executor.shutdown(wait=False)
        await asyncio.shield(self._last)

    def _submitted(self, work: Callable[[], T]) -> asyncio.Future[T]:
        act = once(partial(contextvars.copy_context().run, work))
        return asyncio.get_running_loop().run_in_executor(self._executor, act)


def once(work: Callable[[], T]) -> Callable[[], T]:
    """``work``, to be called once by a thread: when its result is told, the thread holds nothing of
    it any more, though it has not come to its own end. Handles on VMMs go with who holds them.
    """
    calls = [work]

    def act() -> T:
        return calls.pop()()

    return act
