"""Reading the log for people: decoded events, with what cannot be decoded told apart.

Knows subjects and the codec, and nothing of how anything is shown.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from godwit_protocol import codec, subjects
from godwit_protocol.errors import CorruptError, NotFoundError
from godwit_protocol.events import Recorded
from godwit_protocol.replay.client_gap import ClientGap, Gaps, window_of

if TYPE_CHECKING:
    from godwit.runtime.event_log import LogReader
    from godwit_protocol.stored import Stored

ALL_EVENTS = subjects.STREAM_SUBJECTS[subjects.EVENTS]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message of the log that is no event."""

    stored: Stored
    why: str


async def messages(
    log: LogReader, filters: Sequence[str], *, after_sequence: int = 0, follow: bool = False
) -> AsyncGenerator[Stored, None]:
    """``EventLog.tail`` or ``read`` as a generator that can be closed (``contextlib.aclosing``), of
    messages as they were first stored, wherever they stand now.
    """
    source = _source(log, filters, after_sequence, follow=follow)
    async with aclosing(source):
        async for stored in source:
            yield stored.as_first_stored()


async def entries(
    log: LogReader, filters: Sequence[str], *, after_sequence: int = 0, follow: bool = False
) -> AsyncGenerator[Recorded | Unreadable, None]:
    """Every message of the filters, decoded if it can be."""
    source = _source(log, filters, after_sequence, follow=follow)
    async with aclosing(source):
        async for stored in source:
            try:
                yield codec.decode(stored.data, stored.sequence)
            except CorruptError as error:
                yield Unreadable(stored.as_first_stored(), error.message)


async def events(
    log: LogReader, filters: Sequence[str], *, after_sequence: int = 0, follow: bool = False
) -> AsyncGenerator[Recorded, None]:
    """Every event of the filters; what cannot be decoded is passed over."""
    source = _source(log, filters, after_sequence, follow=follow)
    async with aclosing(source):
        async for stored in source:
            try:
                recorded = codec.decode(stored.data, stored.sequence)
            except CorruptError:
                continue
            yield recorded


def _source(
    log: LogReader, filters: Sequence[str], after_sequence: int, *, follow: bool
) -> AsyncGenerator[Stored, None]:
    reader = log.tail if follow else log.read
    source = reader(tuple(filters), after_sequence=after_sequence)
    return cast("AsyncGenerator[Stored, None]", source)


async def last_of_each(log: LogReader, filters: Sequence[str]) -> dict[str, Stored]:
    """The last message of each subject that matches."""
    return {stored.subject: stored async for stored in messages(log, filters)}


async def client_gap(log: LogReader, machine: str, migration: Sequence[Stored]) -> ClientGap | None:
    """How long the machine's clients heard nothing while it was moved; None if that is not known.

    Reads all replies that the log still has of it (a day's, at most 1 GiB).
    """
    window = window_of(migration)
    if window is None:
        return None
    gaps = Gaps(window)
    async for stored in messages(log, [subjects.guest_reply(machine)]):
        gaps.take(stored.time_ns)
    return gaps.found()


async def host_names(log: LogReader) -> list[str]:
    """All hosts that have ever announced themselves."""
    announced = await last_of_each(log, (subjects.inventory("*"),))
    return sorted(subject.rpartition(".")[2] for subject in announced)


async def require_host(log: LogReader, host: str) -> None:
    """Raise ``NotFoundError``, naming the hosts that there are, if ``host`` is none of them."""
    subjects.checked_name(host, "host")
    if await log.last(subjects.inventory(host)) is None:
        raise NotFoundError(
            f"there is no host {host!r}", hint=f"hosts: {_listed(await host_names(log))}"
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none has announced itself yet"
