"""An asyncio event loop on virtual time: no selectors, no threads, no wall clock.

Callbacks run in the order in which they became due; time jumps to the next timer when nothing is
ready. Each callback belongs to the process in whose context it was made: those of a dead process
never run, those of one that is stopped or busy wait. The loop must not know what a process does.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Owner(Protocol):
    """A process, as the loop sees it."""

    alive: bool
    held: deque[Handle] | None
    """Callbacks that wait while the process is stopped; None while it is not."""


OWNER: contextvars.ContextVar[Owner | None] = contextvars.ContextVar("owner", default=None)


class Handle:
    """A callback that is due now or later."""

    __slots__ = ("_when_s", "args", "callback", "context", "is_cancelled")

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context,
        when_s: float,
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.is_cancelled = False
        self._when_s = when_s

    def cancel(self) -> None:
        """Never run it."""
        self.is_cancelled = True
        self.args = ()

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self.is_cancelled

    def when(self) -> float:
        """When it is due, in seconds of the loop's time."""
        return self._when_s


class SimulatedTask(asyncio.Task[T]):
    """A task whose hash is its number: sets of tasks have the same order in each run."""

    def __init__(self, coroutine: Any, *, loop: VirtualLoop, **options: Any) -> None:
        self._number = loop.next_number()
        context: contextvars.Context | None = options.get("context")
        self.owner = OWNER.get() if context is None else context.get(OWNER)
        super().__init__(coroutine, loop=loop, **options)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class VirtualLoop(asyncio.AbstractEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self.steps = 0
        self._now_s = 0.0
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._order = 0
        self._closed = False
        self._world = contextvars.Context()

    # What asyncio asks of a loop.

    def time(self) -> float:
        """Seconds since the world began."""
        return self._now_s

    def call_soon(  # type: ignore[override]  # our handles are not asyncio's
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Handle:
        """As asyncio's."""
        # An empty context is false: it is the world's.
        bound = contextvars.copy_context() if context is None else context
        handle = Handle(callback, args, bound, self._now_s)
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Handle:
        """As asyncio's."""
        bound = contextvars.copy_context() if context is None else context
        handle = Handle(callback, args, bound, when)
        self._order += 1
        heapq.heappush(self._timers, (when, self._order, handle))
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Handle:
        """As asyncio's."""
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        """As asyncio's."""
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        """As asyncio's."""
        return SimulatedTask(coro, loop=self, context=context)

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run it inline, a little later: there are no threads."""
        result: asyncio.Future[T] = self.create_future()

        def run() -> None:
            if result.cancelled():
                return
            try:
                result.set_result(func(*args))
            except BaseException as error:  # whoever waits decides
                result.set_exception(error)

        self.call_later(0.0001, run)
        return result

    get_debug = staticmethod(bool)  # false; each future asks, and this is answered fastest

    def is_running(self) -> bool:
        """Whether it runs."""
        return not self._closed

    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Failures are found by whoever judges the run; a dead process says nothing."""

    # What the world asks of it.

    def next_number(self) -> int:
        """A number that was not given before."""
        self._order += 1
        return self._order

    def after(self, delay_s: float, act: Callable[..., object], *args: Any) -> None:
        """Call it in the world's own context, which no process's death can stop."""
        self.at(self._now_s + delay_s, act, *args)

    def at(self, when_s: float, act: Callable[..., object], *args: Any) -> None:
        """As ``after``, at a time. Of two at the same time, the one asked for first comes first."""
        self._order += 1
        handle = Handle(act, args, self._world, when_s)
        heapq.heappush(self._timers, (when_s, self._order, handle))

    def requeue(self, handles: deque[Handle]) -> None:
        """Run what was held, in its order."""
        self._ready.extend(handles)

    def run_until(
        self, done: Callable[[], bool], deadline_s: float, *, every_s: float = 0.0
    ) -> bool:
        """Run until ``done`` or virtual time is ``deadline_s``; return whether it was done.

        It is asked whenever time moves, but no more often than every ``every_s``.
        """
        asyncio._set_running_loop(self)
        try:
            look_s = self._now_s
            while True:
                if self._now_s >= look_s:
                    if done():
                        return True
                    look_s = self._now_s + every_s
                self._run_ready()
                if not self._advance(deadline_s):
                    return done()
        finally:
            asyncio._set_running_loop(None)

    def close(self) -> None:
        """Take nothing more, and drop every task silently."""
        self._closed = True
        self._ready.clear()
        self._timers.clear()

    def _run_ready(self) -> None:
        ready, owner_of = self._ready, OWNER
        world = self._world
        while ready:
            handle = ready.popleft()
            if handle.is_cancelled:
                continue
            context = handle.context
            if context is not world:
                owner = context.get(owner_of)
                if owner is not None:
                    if not owner.alive:
                        continue
                    if owner.held is not None:
                        owner.held.append(handle)
                        continue
            self.steps += 1
            context.run(handle.callback, *handle.args)

    def _advance(self, deadline_s: float) -> bool:
        timers = self._timers
        while timers:
            when_s, _, handle = timers[0]
            if handle.is_cancelled:
                heapq.heappop(timers)
                continue
            if when_s > deadline_s:
                return False
            heapq.heappop(timers)
            self._now_s = max(self._now_s, when_s)
            self._ready.append(handle)
            return True
        return False
