"""The monitor's HTTP side: one page with its style and its script, JSON, a live stream, reports.

Read-only: nothing but GET and HEAD is answered. Nothing is fetched from elsewhere, and no text from
the log is ever HTML: the page sets text, the report escapes it, and ``guard`` forbids what is left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from importlib.resources import files
from typing import Any, Final

import msgspec
from aiohttp import web

from godwit.pictures import reading, report
from godwit.pictures.board import Board
from godwit.pictures.migrations import find_id
from godwit.pictures.narrative import Narrator, reason
from godwit.runtime.event_log import LogReader
from godwit.runtime.signing import is_signed
from godwit_protocol import codec, subjects
from godwit_protocol.errors import CorruptError, DeadlineError
from godwit_protocol.replay.signatures import Trust
from godwit_protocol.replay.timeline import Timeline, timeline
from godwit_protocol.replay.verification import verify
from godwit_protocol.replay.what_if import recorded_move
from godwit_protocol.stored import Stored

from . import guard
from .audience import Audience, framed
from .guard import Handler
from .picture import PAGE_ROWS, Picture

STATIC: Final = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
EVENTS_TOLD_MAX: Final = 5000
"""Of one migration's timeline, the first."""
STORIES_MAX: Final = 2
"""Timelines and reports that are made at a time; each takes a thread and the migration's events."""
STORY_WAIT_S_MAX: Final = 10.0
ROWS_MAX: Final = 1000
SEND_S_MAX: Final = 10.0
"""Who takes nothing for so long is let go."""
DIGITS_MAX: Final = 19


class Pages:
    """The routes, over what the monitor knows and the log that it asks for one migration."""

    def __init__(
        self, picture: Picture, audience: Audience, log: LogReader, names: Collection[str] = ()
    ) -> None:
        """``names``: under which browsers may ask, beside addresses and localhost."""
        self._picture, self._audience, self._log = picture, audience, log
        self._names = names
        self._stories = asyncio.Semaphore(STORIES_MAX)

    def application(self) -> web.Application:
        """The application, to be served."""
        application = web.Application(middlewares=[guard.guarded(self._names)])
        for path, (name, kind) in STATIC.items():
            application.router.add_get(path, _static(name, kind))
        application.router.add_get("/api/cluster", self._cluster)
        application.router.add_get("/api/migrations", self._migrations)
        application.router.add_get("/api/migrations/{id}", self._migration)
        application.router.add_get("/api/stream", self._stream, allow_head=False)
        application.router.add_get("/migrations/{id}/report", self._report)
        return application

    async def _cluster(self, _: web.Request) -> web.StreamResponse:
        return _json(self._picture.cluster())

    async def _migrations(self, request: web.Request) -> web.StreamResponse:
        asked = request.query
        rows_max = min(_whole_number(asked.get("count", "")) or PAGE_ROWS, ROWS_MAX)
        words, before = asked.get("filter", ""), asked.get("before", "")
        return _json(self._picture.page(words, before, rows_max))

    async def _migration(self, request: web.Request) -> web.StreamResponse:
        async with self._story(request) as (migration, messages):
            return _json(await asyncio.to_thread(_told, migration, messages))

    async def _report(self, request: web.Request) -> web.StreamResponse:
        async with self._story(request) as (migration, messages):
            text = await asyncio.to_thread(_report_of, migration, messages)
        response = web.Response(text=text, content_type="text/html")
        response.headers[guard.POLICY_HEADER] = guard.REPORT_POLICY
        return response

    @asynccontextmanager
    async def _story(self, request: web.Request) -> AsyncIterator[tuple[str, list[Stored]]]:
        """The full id and the messages of the migration that is asked for, when it is its turn.

        Raises ``DeadlineError`` if that does not come.
        """
        try:
            async with asyncio.timeout(STORY_WAIT_S_MAX):
                await self._stories.acquire()
        except TimeoutError as error:
            raise DeadlineError("too many timelines and reports are asked for at once") from error
        try:
            migration = await find_id(self._log, request.match_info["id"])
            found = reading.messages(self._log, subjects.whole_migration(migration))
            messages: list[Stored] = []
            async with aclosing(found):
                async for stored in found:
                    messages.append(stored)
                    if len(messages) == EVENTS_TOLD_MAX:
                        break
            yield migration, messages
        finally:
            self._stories.release()

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """News as they come; first what the browser, by its ``Last-Event-ID``, has not seen."""
        if self._audience.is_full:
            return web.Response(status=503, text="too many look already")
        after = _whole_number(request.headers.get("Last-Event-ID", ""))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        guard.harden(response)
        with self._audience.joined() as watcher, suppress(ConnectionError, TimeoutError):
            await response.prepare(request)
            await _send(response, framed(self._picture.whole(after)))
            async for frame in watcher.frames():
                await _send(response, frame)
        return response


def _static(name: str, kind: str) -> Handler:
    body = files("godwit.monitor").joinpath("static", name).read_bytes()

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, content_type=kind, charset="utf-8")

    return handler


async def _send(response: web.StreamResponse, frame: bytes) -> None:
    async with asyncio.timeout(SEND_S_MAX):
        await response.write(frame)


def _whole_number(text: str) -> int:
    """0 for what is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < DIGITS_MAX else 0


def _json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def _told(migration: str, messages: Sequence[Stored]) -> dict[str, Any]:
    """The migration as the list has it, and its timeline."""
    told, board = timeline(migration, messages), Board()
    for stored in messages:
        board.learn(codec.decode(stored.data, stored.sequence))
    row = board.row(migration)
    return {
        "id": migration,
        "migration": None if row is None else row.as_json(time.time_ns()),
        "events": _moments(told),
        "is_whole": len(messages) < EVENTS_TOLD_MAX,
    }


def _moments(told: Timeline) -> Sequence[dict[str, Any]]:
    narrator = Narrator()
    return [
        {
            "sequence": recorded.sequence,
            "wall_ms": recorded.envelope.wall_ns // 1_000_000,
            "lane": recorded.envelope.lane.value,
            "host": recorded.envelope.host,
            "text": narrator.tell(recorded),
            "because": f"{cause.sequence}, {reason(cause.envelope.type)}" if cause else "",
        }
        for recorded, cause, _ in told.moments
    ]


def _report_of(migration: str, messages: list[Stored]) -> str:
    story = [codec.decode(each.data, each.sequence) for each in messages]
    if not story:
        raise CorruptError(f"nothing of migration {migration} can be read")
    checked = verify(migration, messages, trust=Trust(is_signed=is_signed))
    return report.page(timeline(migration, messages), checked, recorded_move(migration, story))
