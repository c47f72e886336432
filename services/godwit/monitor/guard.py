"""What the monitor answers at all, and the headers that every answer has.

A page elsewhere may have its own name lead here (DNS rebinding), and would then read what is served
on loopback as if it were its own. So a request must name this monitor by an address, by localhost,
or by a name that the operator gave. Knows nothing of what is served.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable, Collection
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from godwit.pictures import report
from godwit_protocol.errors import GodwitError, InvalidInputError, NotFoundError

POLICY_HEADER: Final = "Content-Security-Policy"
_CLOSED: Final = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    + _CLOSED
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(report.STYLE.encode()).digest()).decode()
REPORT_POLICY: Final = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; {_CLOSED}"
"""Of the page that has its style in it: that style, and no other."""
_HEADERS: Final = {
    POLICY_HEADER: PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_MISDIRECTED: Final = 421

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def guarded(names: Collection[str]) -> Middleware:
    """A middleware: who asks for another name is refused, errors are JSON, all is hardened."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await _answered(request, handler, names)
        except web.HTTPException as refusal:
            harden(refusal)
            raise
        if not response.prepared:
            harden(response)
        return response

    return guard


def harden(response: web.StreamResponse) -> None:
    """Set the headers that are not set otherwise."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


def is_ours(host_header: str, names: Collection[str]) -> bool:
    """Whether a ``Host`` header names this monitor. No name leads to an address but by asking for
    the address itself, so that one is always right.
    """
    try:
        host = urlsplit(f"//{host_header}").hostname or ""
    except ValueError:
        return False
    return host == "localhost" or host in names or _is_address(host)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


async def _answered(
    request: web.Request, handler: Handler, names: Collection[str]
) -> web.StreamResponse:
    if not is_ours(request.headers.get("Host", ""), names):
        told = "this monitor does not go by that name: ask for its address, or see"
        return _error(_MISDIRECTED, f"{told} GODWIT_MONITOR_NAMES")
    try:
        return await handler(request)
    except (NotFoundError, InvalidInputError) as error:
        return _error(404, error.message)
    except GodwitError as error:
        return _error(503, error.message)


def _error(status: int, message: str) -> web.Response:
    body = msgspec.json.encode({"error": message})
    return web.Response(body=body, status=status, content_type="application/json")
