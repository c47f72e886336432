"""What a command shows of the hosts: once, or drawn anew as the log goes on, until Ctrl-C."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import msgspec
import typer

from godwit.pictures import reading
from godwit.pictures.hosts import BOOKS, SOURCES, Hosts, Source
from godwit_protocol.stored import Stored

from . import output
from .connection import open_log, run

if TYPE_CHECKING:
    from rich.console import RenderableType

    from godwit.runtime.event_log import EventLog

REDRAW_S: Final = 0.25
"""However much comes, it is drawn no more often."""
OLDER_S: Final = 5.0
"""However little comes, it is drawn so often: what was told of load and health gets old."""
ARRIVALS_MAX: Final = 10_000
"""Messages that wait to be drawn; then reading waits."""

WatchOption = Annotated[
    bool, typer.Option("--watch", "-w", help="Go on and draw it anew as it changes, until Ctrl-C.")
]


class View(msgspec.Struct, frozen=True, kw_only=True):
    """One table, the lines below it, and the same for programs."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    empty: str
    notes: Sequence[str] = ()
    json: Any = None


Draw = Callable[[Hosts], View]


def show(
    directory: Path | None,
    draw: Draw,
    *,
    watch: bool,
    as_json: bool,
    sources: Sequence[Source] = SOURCES,
) -> None:
    """Draw the hosts. Raises as ``draw``, and ``UnreachableError``."""

    async def work() -> None:
        async with open_log(directory) as log:
            hosts, lasts = await Hosts.read(log, sources)
            if not watch:
                _print(draw(hosts), as_json)
                return
            with _redrawing(as_json) as redraw:
                await _follow_all(log, hosts, lasts, lambda: redraw(draw(hosts)))

    run(work())


def _print(view: View, as_json: bool) -> None:
    if as_json:
        output.print_json(view.json)
        return
    output.print_table(view.columns, view.rows, view.empty)
    for note in view.notes:
        output.print_line(note)


@contextmanager
def _redrawing(as_json: bool) -> Iterator[Callable[[View], None]]:
    """On a terminal, over what was drawn before; else one after the other, if it has changed."""
    if output.stdout().is_terminal and not as_json:
        from rich.live import Live

        with Live(console=output.stdout(), auto_refresh=False, vertical_overflow="crop") as live:
            yield lambda view: live.update(_rendered(view), refresh=True)
        return
    shown: list[View] = []

    def print_if_new(view: View) -> None:
        if shown != [view]:
            _print(view, as_json)
            shown[:] = [view]

    yield print_if_new


def _rendered(view: View) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    table = output.plain_table(view.columns)
    for row in view.rows:
        table.add_row(*row)
    return Group(table if view.rows else Text(view.empty), *map(Text, view.notes))


async def _follow_all(
    log: EventLog, hosts: Hosts, lasts: Mapping[Source, int], redraw: Callable[[], None]
) -> None:
    """Draw, and draw again whenever ``hosts`` have learned something, or nothing for long, until
    cancelled.
    """
    arrivals: asyncio.Queue[Stored] = asyncio.Queue(ARRIVALS_MAX)
    try:
        async with asyncio.TaskGroup() as tasks:
            for source, last in lasts.items():
                tasks.create_task(_follow(log, source, last, arrivals))
            while True:
                redraw()
                with suppress(TimeoutError):
                    async with asyncio.timeout(OLDER_S):
                        hosts.learn(await arrivals.get())
                await asyncio.sleep(REDRAW_S)
                while not arrivals.empty():
                    hosts.learn(arrivals.get_nowait())
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


async def _follow(
    log: EventLog, source: Source, after: int, arrivals: asyncio.Queue[Stored]
) -> None:
    if source not in BOOKS:
        heard = cast("AsyncGenerator[tuple[str, bytes], None]", log.listen((source,)))
        async with aclosing(heard):
            async for subject, data in heard:
                await arrivals.put(Stored(subject, 0, time.time_ns(), data))
        return
    messages = reading.messages(log, (source,), after_sequence=after, follow=True)
    async with aclosing(messages):
        async for stored in messages:
            await arrivals.put(stored)
