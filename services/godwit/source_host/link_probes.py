"""Goes where another host listens, when that offers it, and says what was found there.

Only when somebody asked, so the hosts of a cluster do not probe each other all the time. Decides
nothing: a verdict is made of it in ``godwit_protocol.compatibility``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, cast

import structlog

from godwit.runtime.clock import Clock
from godwit.runtime.event_log import EventLog
from godwit.transfer.port import Dial
from godwit.transfer.probe import probe
from godwit_protocol.errors import GodwitError
from godwit_protocol.link import LINK_VERSION
from godwit_protocol.link_probe import LinkFound, LinkOffered, decode, encode, offered_to

PROBES_AT_ONCE: Final = 16
"""More offers than that are passed over: whoever asked asks again."""

_log: Final = structlog.get_logger(__name__)


class LinkProbes:
    """Those of host ``name``, which connects by ``dial``."""

    def __init__(self, log: EventLog, clock: Clock, name: str, dial: Dial) -> None:
        self._event_log = log
        self._clock = clock
        self._name = name
        self._dial = dial
        self._open: set[str] = set()
        """The questions that are being answered."""

    async def run(self) -> None:
        """Answer until cancelled. Raises ``UnreachableError`` if the log is closed."""
        subject = offered_to(self._name)
        heard = cast("AsyncGenerator[tuple[str, bytes], None]", self._event_log.listen((subject,)))
        async with aclosing(heard), asyncio.TaskGroup() as probing:
            async for _, data in heard:
                offered = decode(data, LinkOffered)
                if offered is not None and self._is_due(offered):
                    self._open.add(offered.ask)
                    probing.create_task(self._answer(offered))

    def _is_due(self, offered: LinkOffered) -> bool:
        return offered.ask not in self._open and len(self._open) < PROBES_AT_ONCE

    async def _answer(self, offered: LinkOffered) -> None:
        try:
            found = await self._look(offered)
            await self._event_log.announce(found.subject, encode(found))
        except Exception:  # a defect here must not end the service that owns the machines
            _log.exception("probing_broke", destination=offered.destination)
        finally:
            self._open.discard(offered.ask)

    async def _look(self, offered: LinkOffered) -> LinkFound:
        clock = self._clock
        version, answered_by, error = 0, "", ""
        began_ns = clock.monotonic_ns()
        try:
            here = await probe(self._dial, offered.address, offered.port)
            version, answered_by = here.version, here.host
        except GodwitError as reason:
            error = reason.message
        return LinkFound(
            ask=offered.ask,
            source=self._name,
            destination=offered.destination,
            address=offered.address,
            port=offered.port,
            wall_ns=clock.wall_ns(),
            own_version=LINK_VERSION,
            answered_by=answered_by,
            version=version,
            answer_ns=clock.monotonic_ns() - began_ns,
            error=error,
        )
