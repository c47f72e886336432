"""Hosts that are only played reach each other: whoever asks is told so at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from godwit.runtime.nats_log import NatsLog
from godwit_protocol.link import LINK_VERSION
from godwit_protocol.link_probe import LinkAsked, LinkFound, asked_of, decode, encode


@asynccontextmanager
async def all_hosts_linked(log: NatsLog) -> AsyncIterator[None]:
    """While it lasts, any source is said to reach any other host. Whether one lives is not said."""
    answering = asyncio.create_task(_answer(log))
    yield
    answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)


async def _answer(log: NatsLog) -> None:
    async for _, data in log.listen((asked_of("*"),)):
        asked = decode(data, LinkAsked)
        if asked is not None and asked.source != asked.destination:
            found = reached(asked)
            await log.announce(found.subject, encode(found))


def reached(asked: LinkAsked) -> LinkFound:
    """The source reaches the destination."""
    return LinkFound(
        ask=asked.ask,
        source=asked.source,
        destination=asked.destination,
        address="127.0.0.1",
        port=1,
        wall_ns=1,
        own_version=LINK_VERSION,
        answered_by=asked.destination,
        version=LINK_VERSION,
    )
