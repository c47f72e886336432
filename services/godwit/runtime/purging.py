"""Removing messages from a stream that allows it. Nothing but the archive does."""

from __future__ import annotations

from typing import Final

from godwit_protocol.subjects import stream_of

from . import jetstream_api as api
from .nats_log import LogRequestError, NatsLog

PURGE_S_MAX: Final = 30.0


class NatsPurger:
    """``archive.archiving.Purger`` on a NATS server."""

    def __init__(self, log: NatsLog) -> None:
        self._log = log

    async def purge(self, subject: str, *, until_sequence: int) -> int:
        """As ``Purger.purge``."""
        request = {"filter": subject, "seq": until_sequence + 1}
        call = f"STREAM.PURGE.{stream_of(subject)}"
        reply = await self._log.ask_api(call, request, api.PurgeReply, PURGE_S_MAX)
        if reply.error is not None:
            raise LogRequestError(f"purge of {subject}", reply.error)
        return reply.purged
