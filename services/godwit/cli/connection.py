"""How a command finds the event log, and what it may write there as an operator.

The URL is GODWIT_NATS_URL, else that of the local cluster whose directory is ``--dir``/GODWIT_DIR.
Heavy libraries are imported only once a connection is really wanted. Knows no command.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from godwit.local_cluster import CLUSTER_FILE
from godwit_protocol.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from godwit.runtime.event_log import EventLog
    from godwit.runtime.lane import Scope
    from godwit.runtime.nats_log import NatsLog
    from godwit.runtime.watching_log import WatchingLog
    from godwit.tracing.export import Tracer
    from godwit_protocol.catalogue import Catalogue
    from godwit_protocol.events import Event
    from godwit_protocol.roles.effects import Address

URL_VARIABLE: Final = "GODWIT_NATS_URL"
LEVEL_VARIABLE: Final = "GODWIT_LOG_LEVEL"

DirectoryOption = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        envvar="GODWIT_DIR",
        metavar="DIR",
        help="Directory of the local cluster (see 'godwit up'); GODWIT_NATS_URL goes before it.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

Result = TypeVar("Result")


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a command's work to its end on an event loop of its own."""
    return asyncio.run(work)


def cluster_directory(directory: Path | None) -> Path:
    """The directory that was given, or the default of GODWIT_DIR."""
    from godwit.runtime.config import Service, load

    return directory.absolute() if directory else load(Service.COMMAND, os.environ).directory


def find_catalogue() -> Catalogue:
    """The GPU models and profiles, with those of GODWIT_CATALOGUE. Raises ``InvalidInputError``."""
    from godwit.catalogue import loading
    from godwit.runtime.config import Service, load

    return loading.load(load(Service.COMMAND, os.environ).catalogue_file)


def find_url(directory: Path | None) -> str:
    """Where the event log is. Raises ``NotFoundError`` if nothing says so."""
    if url := os.environ.get(URL_VARIABLE):
        return url
    place = cluster_directory(directory)
    try:
        described = json.loads((place / CLUSTER_FILE).read_text(encoding="utf-8"))
        return str(described["nats_url"])
    except FileNotFoundError as error:
        raise NotFoundError(
            f"no cluster runs in {place}",
            hint=f"start one with 'godwit up', or set {URL_VARIABLE} to an event log",
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(f"{place / CLUSTER_FILE} cannot be read: {error}") from error


@asynccontextmanager
async def open_log(directory: Path | None) -> AsyncIterator[NatsLog]:
    """The event log, connected. Raises ``NotFoundError``, ``UnreachableError``."""
    async with open_url(find_url(directory)) as log:
        yield log


@asynccontextmanager
async def open_url(url: str, *, inbox_prefix: str = "_INBOX") -> AsyncIterator[NatsLog]:
    """The event log at ``url``, connected. Raises ``UnreachableError``."""
    from godwit.runtime.nats_log import NatsLog

    _configure_logs()
    log = await NatsLog.connect(url, name="godwit-cli", inbox_prefix=inbox_prefix)
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def open_watching(directory: Path | None) -> AsyncIterator[WatchingLog]:
    """The event log for a watcher. Raises ``NotFoundError``, ``UnreachableError``."""
    from godwit.runtime.watching_log import INBOX_PREFIX, WatchingLog

    async with open_url(find_url(directory), inbox_prefix=INBOX_PREFIX) as log:
        yield WatchingLog(log)


def is_debugging() -> bool:
    """Whether the user wants to see everything."""
    return os.environ.get(LEVEL_VARIABLE, "").lower() == "debug"


def _configure_logs() -> None:
    """Libraries log to standard error, and only what a user must know, unless asked for more."""
    import structlog

    level = logging.DEBUG if is_debugging() else logging.ERROR
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def requested_by() -> str:
    """Who gives this command, for the log: ``user@machine``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


async def append_as_operator(
    log: EventLog, scope: Scope, event: Event, *, to: Address | None = None, once: bool = False
) -> int:
    """Append the one event of this command to the operator's lane; return its sequence.

    Each command is a writer of its own, with a chain of one event. ``once``: only if no operator
    has said the same of this scope before; else it raises ``AppendConflictError``. Raises as
    ``EventLog.append``.
    """
    from godwit.runtime.clock import SystemClock
    from godwit.runtime.lane import LaneWriter
    from godwit_protocol import codec
    from godwit_protocol.events import Lane

    clock = SystemClock()
    writer = LaneWriter(clock, Lane.OPERATOR, f"cli-{clock.new_id()[-8:]}", scope)
    sealed = writer.seal(event, to=to)
    expected = 0 if once else None
    tracer = _open_tracer()
    if tracer is None:
        return await sealed.append_to(log, expected_last_sequence=expected)
    try:
        sequence = await sealed.append_to(log, expected_last_sequence=expected, is_traced=True)
        tracer.learn(codec.decode(sealed.data, sequence))
    finally:
        await tracer.close()
    return sequence


def _open_tracer() -> Tracer | None:
    """What sends a span of what is asked for, if that is wanted."""
    from godwit.runtime.config import Service, load
    from godwit.tracing.opening import open_tracer

    return open_tracer("cli", "") if load(Service.COMMAND, os.environ).tracing else None
