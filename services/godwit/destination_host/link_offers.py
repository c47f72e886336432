"""Tells a source where this host listens, whenever somebody wants to know whether it gets there.

Decides nothing, keeps nothing, and nobody relies on it: what is lost is asked for again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

from godwit.runtime.event_log import EventLog
from godwit_protocol.link_probe import LinkAsked, LinkOffered, asked_of, decode, encode
from godwit_protocol.subjects import NAME_PATTERN


class LinkOffers:
    """Those of host ``name``, which listens at ``address`` and ``port``."""

    def __init__(self, log: EventLog, name: str, address: str, port: int) -> None:
        self._event_log = log
        self._name = name
        self._address = address
        self._port = port

    async def run(self) -> None:
        """Answer until cancelled. Raises ``UnreachableError`` if the log is closed."""
        log, subject = self._event_log, asked_of(self._name)
        heard = cast("AsyncGenerator[tuple[str, bytes], None]", log.listen((subject,)))
        async with aclosing(heard):
            async for _, data in heard:
                asked = decode(data, LinkAsked)
                if asked is not None and NAME_PATTERN.fullmatch(asked.source):
                    offered = self._offer(asked)
                    await log.announce(offered.subject, encode(offered))

    def _offer(self, asked: LinkAsked) -> LinkOffered:
        return LinkOffered(
            ask=asked.ask,
            source=asked.source,
            destination=self._name,
            address=self._address,
            port=self._port,
        )
