"""Following a migration to its end, and showing how it goes: live on a terminal, else in lines.

Figures of finished rounds come from events; within a round they come from telemetry, which may be
lost. Everything here goes to standard error: the result is the command's to print.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import TYPE_CHECKING, Final, Protocol, cast

from godwit.pictures import reading
from godwit.pictures.board import Progress, progress_subject, told_progress
from godwit.pictures.figures import clock, duration, rate, short_id, size
from godwit.pictures.narrative import Narrator, reason
from godwit_protocol import subjects
from godwit_protocol.errors import DeadlineError
from godwit_protocol.events import Recorded
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import Outcome
from godwit_protocol.projections import MigrationSummary, fold

from . import output

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from godwit.runtime.event_log import EventLog

TAKEN_UP_S_MAX: Final = 30.0
"""Without any event for so long after the request, no coordinator is there."""
STRAGGLERS_S_MAX: Final = 2.0
"""How long to wait, after the end, for events of the stun that a host has not flushed yet."""
REFRESHES_PER_SECOND: Final = 10


class Display(Protocol):
    """What shows a migration."""

    def told(self, recorded: Recorded, summary: MigrationSummary) -> None:
        """Show the next event; ``summary`` has it folded in."""

    def moved(self, progress: Progress) -> None:
        """Show progress within a round."""


class SilentDisplay:
    """Shows nothing."""

    def told(self, recorded: Recorded, summary: MigrationSummary) -> None:
        """As ``Display.told``."""

    def moved(self, progress: Progress) -> None:
        """As ``Display.moved``."""


class LineDisplay:
    """One line an event, for logs and pipes."""

    def __init__(self) -> None:
        self._narrator = Narrator()

    def told(self, recorded: Recorded, summary: MigrationSummary) -> None:
        """As ``Display.told``."""
        envelope = recorded.envelope
        line = f"{clock(envelope.wall_ns)}  {envelope.lane}  {self._narrator.tell(recorded)}"
        output.stderr().print(line, soft_wrap=True)

    def moved(self, progress: Progress) -> None:
        """As ``Display.moved``."""


class LiveDisplay:
    """A table of rounds that is drawn anew as it grows."""

    def __init__(self, live: Live, migration: str) -> None:
        self._live = live
        self._narrator = Narrator()
        self._summary = MigrationSummary(id=migration)
        self._latest = "waiting for a coordinator"
        self._progress = Progress()

    def told(self, recorded: Recorded, summary: MigrationSummary) -> None:
        """As ``Display.told``."""
        self._summary = summary
        self._latest = f"{recorded.envelope.lane} {self._narrator.tell(recorded)}"
        self._live.update(self._drawn())

    def moved(self, progress: Progress) -> None:
        """As ``Display.moved``."""
        self._progress = progress
        self._live.update(self._drawn())

    def _drawn(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        summary = self._summary
        title = Text.assemble(
            ("machine ", "dim"),
            (summary.machine, "bold"),
            f"  {summary.source or '…'} → {summary.destination}  ",
            (short_id(summary.id), "dim"),
        )
        latest = Text(self._latest, style="dim", no_wrap=True, overflow="ellipsis")
        return Group(title, self._rounds(), latest)

    def _rounds(self) -> RenderableType:
        columns = (">ROUND", "PROGRESS", ">SENT", ">RATE", ">REMAINING", ">PREDICTED STUN", "THEN")
        table = output.plain_table(columns)
        for done in self._summary.rounds:
            figures = done.figures
            table.add_row(
                str(figures.round),
                _bar(1, 1),
                size(figures.sent_bytes),
                rate(done.bandwidth_bytes_per_second),
                size(figures.remaining_bytes),
                duration(done.predicted_stun_ns),
                f"{reason(done.decision)}: {reason(done.reason)}",
            )
        now = self._progress
        if now.round > len(self._summary.rounds) and self._summary.outcome is Outcome.RUNNING:
            table.add_row(
                str(now.round),
                _bar(now.sent_bytes, now.total_bytes),
                size(now.sent_bytes),
                rate(now.bytes_per_second),
                size(now.remaining_bytes),
            )
        return table


def _bar(done: int, total: int) -> RenderableType:
    from rich.progress_bar import ProgressBar

    return ProgressBar(total=max(total, 1), completed=min(done, total), width=20)


@contextmanager
def display_for(migration: str, *, silent: bool = False) -> Iterator[Display]:
    """The display that suits standard error."""
    if silent:
        yield SilentDisplay()
    elif output.stderr().is_terminal:
        from rich.live import Live

        with Live(console=output.stderr(), refresh_per_second=REFRESHES_PER_SECOND) as live:
            yield LiveDisplay(live, migration)
    else:
        yield LineDisplay()


async def follow(
    log: EventLog, migration: str, display: Display, *, wait_s: float
) -> MigrationSummary:
    """Show the migration until it has ended or is in doubt; return it as it is then.

    Raises ``DeadlineError`` after ``wait_s``, or if no coordinator takes it up.
    """
    listener = asyncio.create_task(_listen(log, migration, display))
    try:
        async with asyncio.timeout(wait_s):
            return await _until_ended(log, migration, display)
    except TimeoutError as error:
        raise DeadlineError(
            f"migration {migration} has not ended within {wait_s:g} s",
            hint=f"it goes on: see 'godwit migration show {migration}'",
        ) from error
    finally:
        listener.cancel()
        with suppress(asyncio.CancelledError):
            await listener


async def _until_ended(log: EventLog, migration: str, display: Display) -> MigrationSummary:
    summary = MigrationSummary(id=migration)
    loop = asyncio.get_running_loop()
    source = reading.events(log, subjects.whole_migration(migration), follow=True)
    try:
        async with aclosing(source), asyncio.timeout(TAKEN_UP_S_MAX) as patience:
            async for recorded in source:
                summary = fold(summary, recorded)
                display.told(recorded, summary)
                if _is_whole(summary):
                    break
                if summary.outcome is not Outcome.RUNNING:
                    patience.reschedule(loop.time() + STRAGGLERS_S_MAX)
                elif not isinstance(recorded.event, ev.MigrationRequested):
                    patience.reschedule(None)
    except TimeoutError as error:
        if summary.outcome is Outcome.RUNNING:
            raise DeadlineError(
                f"no coordinator has taken up migration {migration} in {TAKEN_UP_S_MAX:g} s",
                hint="the request stands; it will be decided when a coordinator is up",
            ) from error
    return summary


def _is_whole(summary: MigrationSummary) -> bool:
    """Whether nothing more is to come that anybody would miss."""
    if summary.outcome is Outcome.COMPLETED:
        return summary.stun_ns is not None
    return summary.outcome is Outcome.ABORTED


async def _listen(log: EventLog, migration: str, display: Display) -> None:
    subject = progress_subject(migration)
    source = cast("AsyncGenerator[tuple[str, bytes], None]", log.listen((subject,)))
    async with aclosing(source):
        async for heard, data in source:
            told = told_progress(heard, data)
            if told is not None:
                display.moved(told[1])
