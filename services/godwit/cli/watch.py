"""``godwit watch``: all migrations as they run, on a terminal with keys, else one line a change.

It has a watcher's rights and needs no more. What is on the screen is ``watch_drawing``'s, what a
key does ``watch_keys``'s, what the events say ``pictures.board``'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from godwit.pictures import reading
from godwit.pictures.board import (
    MIGRATIONS_KEPT_MAX,
    Board,
    Progress,
    Row,
    matching,
    progress_subject,
    told_progress,
)
from godwit.pictures.figures import Days
from godwit.pictures.migrations import find_id
from godwit.pictures.newest import tell_newest
from godwit_protocol import subjects
from godwit_protocol.events import Recorded
from godwit_protocol.events.migration import Outcome

from . import completion, output, terminal
from .connection import DirectoryOption, JsonOption, open_watching, run
from .watch_keys import Mode, Press, Screen, pressed, presses

if TYPE_CHECKING:
    from godwit.runtime.watching_log import WatchingLog

REDRAW_S: Final = 0.25
"""However much comes, it is drawn no more often; a key is answered at once."""
CONNECTION_S: Final = 0.5
"""So often it is looked whether the log answers, where nothing is drawn."""
ARRIVALS_MAX: Final = 1000
"""Events, telemetry and keys that wait; then reading waits."""
STRAGGLERS_S_MAX: Final = 2.0
"""How long to wait, after the end, for events of the stun that a host has not flushed yet."""
ENDED_BY_SIGNAL_STATUS: Final = 143

Arrival = Recorded | Press | tuple[str, Progress]


def watch(
    migration: Annotated[
        str,
        typer.Argument(
            metavar="[ID]",
            help="Only this migration, in detail (part of its id will do).",
            autocompletion=completion.migrations,
            show_default=False,
        ),
    ] = "",
    directory: DirectoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Watch migrations as they run: rounds, rates, what remains, the stun, and how long to go.

    On a terminal: arrows or j and k choose, Enter opens, / filters, q or Esc goes back. Into a pipe
    or a file: one line a change. What is shown as 'to go' never grows.
    """

    async def work() -> None:
        async with open_watching(directory) as log:
            wanted = await find_id(log, migration) if migration else ""
            watching = Watching(log, wanted)
            await watching.read()
            if terminal.is_interactive() and not as_json:
                await on_screen(watching)
            else:
                await in_lines(watching, as_json=as_json)

    try:
        run(work())
    except asyncio.CancelledError:
        raise typer.Exit(ENDED_BY_SIGNAL_STATUS) from None


class Watching:
    """The board, kept up to date. ``wanted``: one migration's id, or empty for all."""

    def __init__(self, log: WatchingLog, wanted: str) -> None:
        self.board = Board()
        self.wanted = wanted
        self.arrivals: asyncio.Queue[Arrival] = asyncio.Queue(ARRIVALS_MAX)
        self._log = log
        self._filters = subjects.whole_migration(wanted or "*")
        self._last = self._not_read = 0

    @property
    def left_out(self) -> int:
        """How many migrations of the log are not on the board."""
        return self._not_read + self.board.forgotten

    @property
    def is_connected(self) -> bool:
        """Whether the log answers."""
        return self._log.is_connected

    async def read(self) -> None:
        """Take what the log holds of the newest migrations. Raises ``UnreachableError``."""
        if not self.wanted:
            newest = tell_newest(self._log, self.board.learn, MIGRATIONS_KEPT_MAX)
            self._last, self._not_read = await newest
            return
        async with aclosing(reading.events(self._log, self._filters)) as events:
            async for recorded in events:
                self.board.learn(recorded)
                self._last = recorded.sequence

    def take(self, arrival: Recorded | tuple[str, Progress]) -> Row | None:
        """Put one arrival on the board; return the row that changed."""
        if isinstance(arrival, Recorded):
            return self.board.learn(arrival, time.time_ns())
        return self.board.hear(*arrival, time.time_ns())

    async def follow(self) -> None:
        """Put what happens from then on into ``arrivals``, until cancelled."""
        events = reading.events(self._log, self._filters, after_sequence=self._last, follow=True)
        async with aclosing(events):
            async for recorded in events:
                await self.arrivals.put(recorded)

    async def listen(self) -> None:
        """The same for telemetry."""
        async for subject, data in self._log.listen([progress_subject(self.wanted or "*")]):
            told = told_progress(subject, data)
            if told is not None:
                await self.arrivals.put(told)

    def type(self, data: bytes) -> None:
        """The same for keys; what nobody takes is lost."""
        with suppress(asyncio.QueueFull):
            for press in presses(data):
                self.arrivals.put_nowait(press)


async def on_screen(watching: Watching) -> None:
    """Draw, until the user leaves."""
    from rich.live import Live

    console = output.stdout()
    async with _followed(watching.follow(), watching.listen()):
        with (
            terminal.keys_to(watching.type),
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            await _until_left(watching, live.update)


@asynccontextmanager
async def _followed(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """They run meanwhile; if one fails, so does this, and as that one did."""
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(work) for work in works]
            yield
            for task in running:
                task.cancel()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


async def _until_left(watching: Watching, update: Callable[..., None]) -> None:
    from rich.console import Group

    from .watch_drawing import drawn, page_rows

    console = output.stdout()
    wanted = watching.wanted
    screen = Screen(mode=Mode.DETAIL if wanted else Mode.LIST, chosen=wanted)
    shown: Any = None
    while screen.mode is not Mode.OVER and not (wanted and screen.mode is Mode.LIST):
        rows = matching(watching.board.rows(), screen.filter)
        left_out = watching.left_out
        size, now_ns = (console.width, console.height), time.time_ns()
        lines = drawn(screen, rows, *size, now_ns, left_out, connected=watching.is_connected)
        if (lines, console.size) != shown:
            shown = (lines, console.size)
            update(Group(*lines), refresh=True)
        press = await _next_press(watching)
        if press is not None:
            ids = [row.summary.id for row in matching(watching.board.rows(), screen.filter)]
            screen = pressed(screen, press, ids, page_rows(console.height))


async def _next_press(watching: Watching) -> Press | None:
    """Take what arrives, until a key is pressed or it is time to draw."""
    with suppress(TimeoutError):
        async with asyncio.timeout(REDRAW_S):
            while True:
                arrival = await watching.arrivals.get()
                if isinstance(arrival, Press):
                    return arrival
                watching.take(arrival)
    return None


async def in_lines(watching: Watching, *, as_json: bool) -> None:
    """Print a line a change; of one migration, until it has ended."""
    lines = Lines(as_json)
    for row in sorted(watching.board.rows(), key=lambda each: each.summary.requested_wall_ns):
        lines.tell(row)
    async with _followed(watching.follow(), say_if_silent(watching)):
        await _until_ended(watching, lines)


async def say_if_silent(watching: Watching) -> None:
    """Say it beside the lines when the log ceases to answer, and when it answers again."""
    told = True
    while True:
        if watching.is_connected is not told:
            told = watching.is_connected
            text = "the event log answers again" if told else "the event log does not answer"
            output.stderr().print(text, soft_wrap=True)
        await asyncio.sleep(CONNECTION_S)


async def _until_ended(watching: Watching, lines: Lines) -> None:
    row = watching.board.row(watching.wanted)
    with suppress(TimeoutError):
        async with asyncio.timeout(None) as patience:
            while row is None or not watching.wanted or not _is_whole(row):
                if row is not None and watching.wanted and not row.is_running:
                    patience.reschedule(asyncio.get_running_loop().time() + STRAGGLERS_S_MAX)
                arrival = await watching.arrivals.get()
                if not isinstance(arrival, Press):
                    row = watching.take(arrival)
                if row is not None:
                    lines.tell(row)


class Lines:
    """Prints a row when what it says has changed."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._told: dict[str, object] = {}
        self._days = Days()

    def tell(self, row: Row) -> None:
        """Print the row, unless it has been told so."""
        from .watch_drawing import line, told_ns

        migration, change, now_ns = row.summary.id, _telling(row), time.time_ns()
        if self._told.pop(migration, None) != change:
            if self._as_json:
                output.print_json(row.as_json(now_ns))
            else:
                output.print_line(self._days.dated(told_ns(row), line(row, now_ns)))
        self._told[migration] = change
        if len(self._told) > MIGRATIONS_KEPT_MAX:
            self._told.pop(next(iter(self._told)))


def _telling(row: Row) -> object:
    """What a line is worth: not each event changes what it says."""
    summary = row.summary
    return (row.phase, len(summary.rounds), summary.stun_ns, summary.reason, summary.message)


def _is_whole(row: Row) -> bool:
    summary = row.summary
    if summary.outcome is Outcome.COMPLETED:
        return summary.stun_ns is not None
    return not row.is_running
