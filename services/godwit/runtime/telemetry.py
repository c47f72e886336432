"""Structured logs: one set-up for a process, and the names that are bound to its lines.

JSON, or a console form on a terminal; the standard library's logging goes the same way. Logs are
for operators: what a program relies on is an event. Knows nothing of NATS.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, TextIO

import structlog
from structlog.typing import Processor

from godwit.runtime.choices import LogFormat

QUIET_LIBRARIES: Final = ("asyncio", "nats")


def configure(service: str, level: int, form: LogFormat, stream: TextIO = sys.stderr) -> None:
    """Send all logs of this process to ``stream``. ``level`` is one of the logging module's.

    May be called again; the last call holds.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    output = logging.StreamHandler(stream)
    output.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(form, stream),
            ],
        )
    )
    logging.basicConfig(handlers=[output], level=level, force=True)
    logging.captureWarnings(True)
    for library in QUIET_LIBRARIES:
        logging.getLogger(library).setLevel(max(level, logging.WARNING))
    structlog.contextvars.bind_contextvars(service=service)


@contextmanager
def bound(*, migration: str = "", machine: str = "", host: str = "") -> Iterator[None]:
    """Bind what is not empty to every log line in the block, and in the tasks begun in it.

    A block that is left in another context than it was entered in changes nothing there: so ends
    that of a coroutine which nobody awaits any more.
    """
    names = {"migration": migration, "machine": machine, "host": host}
    before = structlog.contextvars.bind_contextvars(
        **{name: value for name, value in names.items() if value}
    )
    try:
        yield
    finally:
        with suppress(ValueError):
            structlog.contextvars.reset_contextvars(**before)


def _rendering(form: LogFormat, stream: TextIO) -> list[Processor]:
    terminal = stream.isatty()
    if form is LogFormat.CONSOLE or (form is LogFormat.AUTO and terminal):
        return [structlog.dev.ConsoleRenderer(colors=terminal, timestamp_key="time")]
    return [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
