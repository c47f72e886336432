"""The health endpoint: ``GET /healthz`` says whether a service can do its work now.

200 when the service is ready and every check is well, else 503; the body is JSON with ``service``,
``ready`` and ``checks`` (a sentence for each trouble, empty when well). Port 0 takes any free port;
the file ``health.json`` in the service's directory says which. Beside it are the pages that the
service was given, such as its metrics, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

from godwit_protocol.errors import InvalidInputError

PATH: Final = "/healthz"
ADDRESS_FILE: Final = "health.json"
REQUEST_BYTES_MAX: Final = 8192
REQUEST_S_MAX: Final = 2.0
CONNECTIONS_MAX: Final = 32
PIECES_APART_S: Final = 0.001
"""Between two pieces of a page: the event loop may have a stun on its hands."""

Check = Callable[[], str]
"""Returns what is wrong, in a sentence; empty if nothing is."""


@dataclass(frozen=True, slots=True)
class Page:
    """What stands under a path. ``pieces`` is called for each request; to make one of them takes
    some tens of microseconds.
    """

    content_type: str
    pieces: Callable[[], Iterable[bytes]]


class Health:
    """What a service says of itself, and the endpoint that says it."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.ready = False
        """Set by the service once it does its work."""
        self._checks: dict[str, Check] = {}
        self._pages: dict[bytes, Page] = {}
        self._server: asyncio.Server | None = None
        self._connections = asyncio.Semaphore(CONNECTIONS_MAX)
        self._address_file: Path | None = None

    def add_check(self, name: str, check: Check) -> None:
        """Ask ``check`` at each request. It must be quick and must not raise."""
        self._checks[name] = check

    def add_page(self, path: str, page: Page) -> None:
        """Serve a page under ``path``, which begins with a slash."""
        self._pages[path.encode()] = page

    def report(self) -> dict[str, object]:
        """Return the endpoint's body."""
        checks = {name: check() for name, check in self._checks.items()}
        return {"service": self.service, "ready": self.ready, "checks": checks}

    @property
    def is_well(self) -> bool:
        """Ready, and no check has found anything."""
        return self.ready and not any(check() for check in self._checks.values())

    async def start(self, host: str, port: int, directory: Path) -> int:
        """Serve, and write the address to ``directory``. Returns the port that is bound.

        Raises ``InvalidInputError`` if the address is not free or not of this machine.
        """
        try:
            self._server = await asyncio.start_server(
                self._serve, host, port, limit=REQUEST_BYTES_MAX
            )
        except OSError as error:
            raise InvalidInputError(
                f"the health endpoint cannot listen on {host} port {port}: {error.strerror}",
                hint="set GODWIT_HEALTH_HOST and GODWIT_HEALTH_PORT",
            ) from error
        bound: int = self._server.sockets[0].getsockname()[1]
        self._write_address(directory, host, bound)
        return bound

    async def close(self) -> None:
        """Stop serving. Idempotent."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None
        if self._address_file is not None:
            self._address_file.unlink(missing_ok=True)

    def _write_address(self, directory: Path, host: str, port: int) -> None:
        """Whole or not at all: a reader never sees half a file."""
        directory.mkdir(parents=True, exist_ok=True)
        self._address_file = directory / ADDRESS_FILE
        partial = directory / f".{ADDRESS_FILE}.{os.getpid()}"
        partial.write_text(json.dumps({"host": host, "port": port, "pid": os.getpid()}))
        partial.replace(self._address_file)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and hang up. A bad or slow client gets nothing."""
        troubles = (TimeoutError, OSError, EOFError, asyncio.LimitOverrunError)
        with contextlib.suppress(*troubles), contextlib.closing(writer):
            if self._connections.locked():
                return
            async with self._connections, asyncio.timeout(REQUEST_S_MAX):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._answer(head))
                await writer.drain()

    async def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        page = self._pages.get(path)
        if page is None and path != PATH.encode():
            there = ", ".join([PATH, *(known.decode() for known in self._pages)])
            return _json(HTTPStatus.NOT_FOUND, {"error": f"only {there} is here"})
        if method not in {b"GET", b"HEAD"}:
            return _json(HTTPStatus.METHOD_NOT_ALLOWED, {"error": "only GET is allowed"})
        with_body = method == b"GET"
        if page is not None:
            body = await _whole(page)
            return _response(HTTPStatus.OK, page.content_type, body, with_body=with_body)
        status = HTTPStatus.OK if self.is_well else HTTPStatus.SERVICE_UNAVAILABLE
        return _json(status, self.report(), with_body=with_body)


async def _whole(page: Page) -> bytes:
    made = []
    for piece in page.pieces():
        made.append(piece)
        await asyncio.sleep(PIECES_APART_S)
    return b"".join(made)


def _json(status: HTTPStatus, body: object, *, with_body: bool = True) -> bytes:
    data = json.dumps(body).encode()
    return _response(status, "application/json", data, with_body=with_body)


def _response(
    status: HTTPStatus, content_type: str, body: bytes, *, with_body: bool = True
) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (body if with_body else b"")
