"""Runs a role: carries inputs into its pure core, and the core's effects out, in order.

Decides nothing. Long effects are the performer's to start as tasks, whose results come back as
inputs; a tick comes when the state's deadline has. An input is taken where it is told, without
another turn of the loop: a stun takes a dozen of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, Protocol, TypeVar

import structlog

from godwit.runtime.frames import let_go
from godwit_protocol.errors import (
    DeadlineError,
    GodwitError,
    LocalProtocolError,
    RemoteProtocolError,
)
from godwit_protocol.roles.effects import Effect, Finish
from godwit_protocol.roles.inputs import Input, LinkLost, Tick

INPUTS_MAX: Final = 1024
"""Inputs that wait for the core. A role that is so far behind is broken."""

S = TypeVar("S")
Effects = tuple[Effect, ...]

_log = structlog.get_logger(__name__)


class Core(Protocol[S]):
    """A role's core, such as the module ``godwit_protocol.roles.source``."""

    def step(self, state: S, given: Input, now_ns: int) -> tuple[S, Effects]:
        """One step."""

    def next_deadline_ns(self, state: S) -> int | None:
        """When the state wants a tick."""


class RoleRunner(Generic[S]):
    """One role of one migration. Used on one event loop."""

    def __init__(
        self, core: Core[S], perform: Callable[[Effect], None], now_ns: Callable[[], int]
    ) -> None:
        self.state: S | None = None
        self._core = core
        self._perform = perform
        self._now_ns = now_ns
        self._inputs: deque[Input] = deque()
        self._is_stepping = True
        """Nothing is taken before ``run``, nor in the middle of a step."""
        self._context = contextvars.Context()
        """Every step is taken in that of ``run``, so that logs say which migration it is."""
        self._moved = asyncio.Event()
        self._failure: Exception | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._finished = False

    @property
    def is_over(self) -> bool:
        """Whether the core has said ``Finish``."""
        return self._finished

    def tell(self, given: Input) -> None:
        """Hand an input to the core, at once if it is not in a step. Dropped once the role has
        finished. What goes wrong is raised by ``run``.
        """
        if self._finished or self._failure is not None:
            return
        assert len(self._inputs) < INPUTS_MAX, "a role is too far behind"
        self._inputs.append(given)
        if not self._is_stepping:
            self._context.run(self._step_all)

    def rehearse(self, show: Callable[[Effect], None], *inputs: Input) -> None:
        """Go through the steps that ``inputs`` would lead to, one after the other, and take none.

        ``show`` gets each effect, to go through its motions without any effect. What a processor
        has not done for some milliseconds takes it five times as long, and a stun waits for that;
        so whoever waits for the peer does beforehand what is to follow. A core is pure: what is
        thrown away has not happened. What does not fit the state, or is already over, is left out.
        """
        state = self.state
        if state is None or self._finished or self._failure is not None:
            return
        with contextlib.suppress(LocalProtocolError, RemoteProtocolError):
            for given in inputs:
                state, effects = self._core.step(state, given, self._now_ns())
                for effect in effects:
                    show(effect)

    def start(
        self,
        operation: Coroutine[Any, Any, Input | None],
        on_error: Callable[[GodwitError], Input | None],
    ) -> asyncio.Task[None]:
        """Run a long effect; what it returns, or what ``on_error`` makes of its error, is told."""

        async def run() -> None:
            try:
                result = await operation
            except Exception as error:  # a defect, too, must not leave the role waiting for ever
                result = on_error(_explained(error))
                let_go(error)
            if result is not None:
                self.tell(result)

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # One that is cancelled before it begins would leave the operation without a beginning.
        task.add_done_callback(lambda _: operation.close())
        return task

    async def run(self, state: S, effects: Effects) -> S:
        """Run from ``state`` until the core says ``Finish``; return the last state.

        Raises ``JournalFailedError``, ``OutboxFullError``: nothing may follow but a restart.
        """
        self._context = contextvars.copy_context()
        try:
            self._take(state, effects)
            self._step_all()
            while not self._finished and self._failure is None:
                await self._wait()
            if self._failure is not None:
                raise self._failure
            if self._tasks:
                await asyncio.wait(set(self._tasks))
        finally:
            for task in self._tasks:
                task.cancel()
        assert self.state is not None
        return self.state

    def _step_all(self) -> None:
        """Take all that was told. Whoever told the last of it is not to answer for a failure."""
        self._is_stepping = True
        try:
            while self._inputs and not self._finished:
                self._step(self._inputs.popleft())
        except Exception as error:
            self._failure = error
        self._is_stepping = False
        self._moved.set()

    def _step(self, given: Input) -> None:
        assert self.state is not None
        try:
            state, effects = self._core.step(self.state, given, self._now_ns())
        except RemoteProtocolError as error:
            _log.warning("peer_broke_the_protocol", error=error.message)
            self.tell(LinkLost(message=error.message))
        except LocalProtocolError as error:
            _log.error("input_refused", error=error.message)
        else:
            self._take(state, effects)

    def _take(self, state: S, effects: Effects) -> None:
        """An effect that cannot even be begun, such as a record that the journal does not take,
        leaves the role between two states: it ends, and with it the service, whose next life goes
        on from what the journal holds.
        """
        self.state = state
        for effect in effects:
            self._finished = self._finished or isinstance(effect, Finish)
            self._perform(effect)

    async def _wait(self) -> None:
        """Wait for the next step, or take one if the state's deadline comes before."""
        assert self.state is not None
        self._moved.clear()
        deadline_ns = self._core.next_deadline_ns(self.state)
        if deadline_ns is None:
            await self._moved.wait()
            return
        wait_s = max(deadline_ns - self._now_ns(), 0) / 1e9
        try:
            async with asyncio.timeout(wait_s):
                await self._moved.wait()
        except TimeoutError:
            self.tell(Tick())


def _explained(error: Exception) -> GodwitError:
    """Write down that an operation failed, and of what."""
    match error:
        case GodwitError():
            _log.warning("operation_failed", error=error.message, code=error.code)
            return error
        case TimeoutError():
            _log.warning("operation_timed_out")
            return DeadlineError("the operation did not end in time")
        case _:
            _log.error("operation_broke", exc_info=error)
            return LocalProtocolError(repr(error))
