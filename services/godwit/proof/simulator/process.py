"""Simulated processes: they can die at any instant, be stopped, and be busy. And the world's notes.

A process that died runs no callback any more and each port that it calls raises ``DiedError``; what
it had suspended is kept, never closed, so that no ``finally`` of it runs.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from .faults import Fault, Weather
from .loop import OWNER, Handle, SimulatedTask, VirtualLoop

NOTES_MAX: Final = 300
"""Of the last events, what a violation is printed with."""


AWAITS_MAX: Final = 50
"""How often a coroutine that is being closed may wait once more."""


class DiedError(BaseException):
    """The process died in this call. Nothing may catch it: so it is no ``Exception``."""


class World:
    """What all simulated things share: time, dice, weather, and the notes of what happened."""

    def __init__(self, weather: Weather, listen: Callable[[str], None] | None = None) -> None:
        self.loop = VirtualLoop()  # type: ignore[abstract]  # no sockets, signals or pipes
        self.dice = weather.dice
        self.weather = weather
        self.graves: list[asyncio.Task[Any]] = []
        self.listen = listen
        self.take_power: dict[str, Callable[[], object]] = {}
        """By host that can lose it."""
        self._notes: deque[tuple[float, str, str]] = deque(maxlen=NOTES_MAX)

    def note(self, who: str, what: str) -> None:
        """Remember an event in words."""
        note = (self.loop.time(), who, what)
        self._notes.append(note)
        if self.listen is not None:
            self.listen(_line(*note))

    def notes(self) -> list[str]:
        """The last events, each a line."""
        return [_line(*note) for note in self._notes]

    def latency_s(self, least_s: float) -> float:
        """How long something takes that takes at least ``least_s``."""
        return least_s * (1.0 + self.dice.random())

    def bury(self) -> None:
        """End the world: let go of all that was suspended."""
        self.graves += asyncio.all_tasks(self.loop)
        self.loop.close()
        for task in self.graves:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            _close(task.get_coro())
        self.graves.clear()


class Process:
    """One life of one process."""

    def __init__(self, world: World, name: str, host: str, *, mortal: bool = True) -> None:
        self.world = world
        self.name = name
        self.host = host
        self.alive = True
        self._mortal = mortal
        self.held: deque[Handle] | None = None
        self.free_s = 0.0
        """Until when it is busy in a call that blocks."""
        self.on_death: list[Callable[[], None]] = []
        self._context = contextvars.Context()
        self._context.run(OWNER.set, self)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run it as this process."""
        return self.world.loop.create_task(coroutine, context=self._context.copy())

    def call(self, act: Callable[..., object], *args: Any) -> None:
        """Call it at once as this process, as its kernel would wake it."""
        if self.alive:
            self.world.loop.call_soon(act, *args, context=self._context.copy())

    def check(self) -> None:
        """To be called first by every port. Raises ``DiedError``."""
        if not self.alive:
            raise DiedError

    def step(self, name: str) -> None:
        """A step at which the process may die. Raises ``DiedError``."""
        if not self.alive:
            raise DiedError
        weather, take_power = self.world.weather, self.world.take_power.get(self.host)
        if self._mortal and weather.strikes(Fault.CRASH_AT_STEP):
            self.die(f"killed at: {name}")
            raise DiedError
        if take_power is not None and weather.strikes(Fault.POWER_LOST_AT_STEP):
            self.world.note(self.host, f"loses its power at: {name}")
            take_power()
            raise DiedError

    def die(self, how: str) -> None:
        """End this life now."""
        if not self.alive:
            return
        self.world.note(self.name, how)
        self.alive = False
        self.held = None
        living = asyncio.all_tasks(self.world.loop)
        self.world.graves += [
            task for task in living if isinstance(task, SimulatedTask) and task.owner is self
        ]
        for tell in self.on_death:
            tell()

    def stop_for(self, seconds: float) -> None:
        """Run nothing for a while, as after SIGSTOP or in a call that blocks."""
        until_s = self.world.loop.time() + seconds
        if until_s <= self.free_s or not self.alive:
            return
        self.free_s = until_s
        if self.held is None:
            self.held = deque()
        self.world.loop.after(seconds, self._go_on, until_s)

    def lag_s(self) -> float:
        """How long what it does now takes to leave it."""
        return max(self.free_s - self.world.loop.time(), 0.0)

    def _go_on(self, until_s: float) -> None:
        if self.held is not None and until_s >= self.free_s:
            held, self.held = self.held, None
            self.world.loop.requeue(held)


def _close(coroutine: Any) -> None:
    """Close a coroutine that may wait again while it is being closed, and what it never began."""
    if coroutine.cr_frame is not None and not coroutine.cr_running:
        for held in _held(coroutine):
            if (
                inspect.iscoroutine(held)
                and inspect.getcoroutinestate(held) == inspect.CORO_CREATED
            ):
                held.close()
    for _ in range(AWAITS_MAX):
        try:
            coroutine.close()
        except RuntimeError:
            continue  # it waits again, in a ``finally``
        except BaseException:  # the world is over: nobody is interested
            pass
        return


def _held(coroutine: Any) -> list[Any]:
    """What a coroutine's variables hold; of one that never began, also those of its closure."""
    held = list(coroutine.cr_frame.f_locals.values())
    if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
        functions = filter(inspect.isfunction, gc.get_referents(coroutine))
        cells = [cell for function in functions for cell in function.__closure__ or ()]
        held += [cell.cell_contents for cell in cells]
    return held


def _line(time_s: float, who: str, what: str) -> str:
    return f"{time_s:11.6f}  {who:22} {what}"
