"""The monitor's HTTP side: one page with its style and its script, JSON, a live stream, reports.

Read-only: nothing but GET is answered. Nothing is fetched from elsewhere, and no text from the log
is ever HTML: the page sets text, the report escapes it, and a policy forbids what is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from importlib.resources import files
from typing import Any, Final

import msgspec
from aiohttp import web

from godwit.pictures import reading, report
from godwit.pictures.migrations import find_id
from godwit.pictures.narrative import Narrator, reason
from godwit.runtime.event_log import LogReader, Stored
from godwit.runtime.signing import is_signed
from godwit_protocol import codec, subjects
from godwit_protocol.errors import CorruptError, GodwitError, InvalidInputError, NotFoundError
from godwit_protocol.replay.signatures import Trust
from godwit_protocol.replay.timeline import Timeline, timeline
from godwit_protocol.replay.verification import verify
from godwit_protocol.replay.what_if import recorded_move

from .audience import Audience, framed
from .picture import Picture

STATIC: Final = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
EVENTS_TOLD_MAX: Final = 5000
"""Of one migration's timeline."""
SEND_S_MAX: Final = 10.0
"""Who takes nothing for so long is let go."""
_PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_REPORT_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Pages:
    """The routes, over what the monitor knows and the log that it asks for one migration."""

    def __init__(self, picture: Picture, audience: Audience, log: LogReader) -> None:
        self._picture, self._audience, self._log = picture, audience, log

    def application(self) -> web.Application:
        """The application, to be served."""
        application = web.Application(middlewares=[_guarded])
        for path, (name, kind) in STATIC.items():
            application.router.add_get(path, _static(name, kind))
        application.router.add_get("/api/cluster", self._cluster)
        application.router.add_get("/api/migrations", self._migrations)
        application.router.add_get("/api/migrations/{id}", self._migration)
        application.router.add_get("/api/stream", self._stream)
        application.router.add_get("/migrations/{id}/report", self._report)
        return application

    async def _cluster(self, _: web.Request) -> web.StreamResponse:
        return _json(self._picture.cluster())

    async def _migrations(self, _: web.Request) -> web.StreamResponse:
        return _json(self._picture.migrations())

    async def _migration(self, request: web.Request) -> web.StreamResponse:
        told = await asyncio.to_thread(timeline, *await self._story(request))
        return _json({"id": told.summary.id, "events": _moments(told)})

    async def _report(self, request: web.Request) -> web.StreamResponse:
        migration, messages = await self._story(request)
        text = await asyncio.to_thread(_report_of, migration, messages)
        response = web.Response(text=text, content_type="text/html")
        response.headers["Content-Security-Policy"] = _REPORT_POLICY
        return response

    async def _story(self, request: web.Request) -> tuple[str, list[Stored]]:
        """The full id and all messages of the migration that is asked for."""
        migration = await find_id(self._log, request.match_info["id"])
        filters = subjects.whole_migration(migration)
        messages = [stored async for stored in reading.messages(self._log, filters)]
        return migration, messages[:EVENTS_TOLD_MAX]

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """News as they come; first what the browser, by its ``Last-Event-ID``, has not seen."""
        if self._audience.is_full:
            return web.Response(status=503, text="too many look already")
        seen = request.headers.get("Last-Event-ID", "")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **_HEADERS})
        with self._audience.joined() as watcher, suppress(ConnectionError, TimeoutError):
            await response.prepare(request)
            after = int(seen) if seen.isascii() and seen.isdecimal() else 0
            await response.write(framed(self._picture.whole(after)))
            async for frame in watcher.frames():
                async with asyncio.timeout(SEND_S_MAX):
                    await response.write(frame)
        return response


def _static(name: str, kind: str) -> Handler:
    body = files("godwit.monitor").joinpath("static", name).read_bytes()

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, content_type=kind, charset="utf-8")

    return handler


@web.middleware
async def _guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as JSON with a fitting status, and the headers that every answer has."""
    try:
        response = await handler(request)
    except (NotFoundError, InvalidInputError) as error:
        response = _json({"error": error.message}, status=404)
    except GodwitError as error:
        response = _json({"error": error.message}, status=503)
    if not response.prepared:
        response.headers.update(_HEADERS)
        response.headers.setdefault("Content-Security-Policy", _PAGE_POLICY)
    return response


def _json(value: Any, status: int = 200) -> web.Response:
    body = msgspec.json.encode(value)
    return web.Response(body=body, status=status, content_type="application/json")


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
