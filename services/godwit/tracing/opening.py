"""Tracing, if it is wanted and can be had."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from godwit_protocol.errors import UnsupportedError

if TYPE_CHECKING:
    from .export import Tracer


def open_tracer(service: str, host: str) -> Tracer:
    """A tracer of the facts of ``service``. Raises ``UnsupportedError`` without OpenTelemetry."""
    try:
        from .export import Tracer
    except ImportError as error:
        raise UnsupportedError(
            "GODWIT_TRACING is on, but OpenTelemetry is not installed",
            hint="pip install 'godwit[tracing]', or set GODWIT_TRACING=off",
        ) from error
    return Tracer(service, version("godwit"), host)
