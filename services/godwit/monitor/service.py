"""The monitor's service: follows the log with a watcher's rights and serves what it says.

What if the process dies here? Nothing is lost: it keeps nothing, and reads the newest migrations
again when it starts.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web

from godwit.catalogue import loading
from godwit.pictures import reading
from godwit.pictures.board import MIGRATIONS_KEPT_MAX
from godwit.pictures.newest import tell_newest
from godwit.runtime.service import ServiceContext
from godwit.runtime.watching_log import WatchingLog
from godwit_protocol import subjects
from godwit_protocol.errors import InvalidInputError

from .audience import Audience
from .pages import Pages
from .picture import Picture

ADDRESS_FILE: Final = "page.json"
NEWS_S: Final = 0.25
"""However much happens, it is told no more often."""
STOP_S: Final = 2.0
LEDGERS: Final = (subjects.ledger("*"),)
TELEMETRY: Final = (
    subjects.telemetry("migration", "*", "progress"),
    subjects.telemetry("host", "*", "gpus"),
)
_log: Final = structlog.get_logger(__name__)


async def main(context: ServiceContext) -> None:
    """Follow and serve, until cancelled."""
    log = WatchingLog(context.log)
    picture, audience = Picture(loading.load(context.config.catalogue_file)), Audience()
    told = await tell_newest(log, picture.learn_event, MIGRATIONS_KEPT_MAX)
    await _read(log, (subjects.inventory("*"),), picture)
    last_line = await _read(log, LEDGERS, picture)
    picture.begin(told.last, told.left_out)
    context.tasks.create_task(_follow(log, reading.ALL_EVENTS, told.last, picture))
    context.tasks.create_task(_follow(log, LEDGERS, last_line, picture))
    context.tasks.create_task(_listen(log, picture))
    pages = Pages(picture, audience, log, context.config.monitor_names)
    async with _served(context, pages):
        context.health.ready = True
        while True:
            await asyncio.sleep(NEWS_S)
            picture.note_connection(log.is_connected)
            news = picture.take_news()
            if news is not None:
                audience.tell(news)


async def _read(log: WatchingLog, filters: Sequence[str], picture: Picture) -> int:
    last = 0
    async with aclosing(reading.messages(log, filters)) as messages:
        async for stored in messages:
            picture.learn(stored)
            last = stored.sequence
    return last


async def _follow(log: WatchingLog, filters: Sequence[str], last: int, picture: Picture) -> None:
    messages = reading.messages(log, filters, after_sequence=last, follow=True)
    async with aclosing(messages):
        async for stored in messages:
            picture.learn(stored)


async def _listen(log: WatchingLog, picture: Picture) -> None:
    async for subject, data in log.listen(TELEMETRY):
        picture.hear(subject, data)


@asynccontextmanager
async def _served(context: ServiceContext, pages: Pages) -> AsyncIterator[None]:
    """Serve, and write the address to the service's directory. Raises ``InvalidInputError``."""
    config = context.config
    runner = web.AppRunner(pages.application(), access_log=None, shutdown_timeout=STOP_S)
    await runner.setup()
    try:
        await _listen_on(runner, config.monitor_host, config.monitor_port)
        port = runner.addresses[0][1]
        _write_address(context.directory, config.monitor_host, port)
        _log.info("page", url=f"http://{config.monitor_host}:{port}/")
        yield
    finally:
        await runner.cleanup()


async def _listen_on(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise InvalidInputError(
            f"the page cannot be served on {host} port {port}: {error.strerror}",
            hint="set GODWIT_MONITOR_HOST and GODWIT_MONITOR_PORT",
        ) from error


def _write_address(directory: Path, host: str, port: int) -> None:
    """Whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / f".{ADDRESS_FILE}.{os.getpid()}"
    partial.write_text(json.dumps({"url": f"http://{host}:{port}/", "pid": os.getpid()}))
    partial.replace(directory / ADDRESS_FILE)
