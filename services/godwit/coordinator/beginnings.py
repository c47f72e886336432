"""Where a coordinator begins to read: as an earlier one has said, and what is said to the next.

It is held against the log before it is believed, and whatever is wrong with it, all is read. What
it says, and when that is true, is ``godwit_protocol.beginning``'s.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from godwit.runtime.clock import Clock
from godwit.runtime.event_log import EventLog
from godwit.runtime.patience import patiently
from godwit_protocol import beginning, subjects
from godwit_protocol.beginning import Beginning, Followed
from godwit_protocol.errors import CorruptError, GodwitError, InvalidInputError
from godwit_protocol.events import Recorded
from godwit_protocol.stored import Stored

SAID_AGAIN_S: Final = 3600.0
_SUBJECT: Final = subjects.beginning("coordinator")
_log: Final = structlog.get_logger(__name__)


class Beginnings:
    """One replica's. Used on one event loop."""

    def __init__(self, log: EventLog, clock: Clock) -> None:
        self._event_log = log
        self._clock = clock
        self._followed = Followed()
        self._said: Beginning | None = None

    async def find(self) -> int:
        """After which place all must be read; 0: nobody has said, or it is not true of this log.

        Raises ``UnreachableError`` once the log has been silent for too long.
        """
        try:
            found = await patiently(self._find)
        except (CorruptError, InvalidInputError) as error:  # also of a server without the stream
            _log.warning("beginning unknown", error=error.message)
            return 0
        if found is None:
            return 0
        self._said, self._followed = found, Followed(found)
        return found.after_sequence

    def learn(self, stored: Stored, recorded: Recorded) -> None:
        """Take the next event of any migration."""
        self._followed.learn(stored.subject, recorded, stored.time_ns)

    async def keep(self) -> None:
        """Say it now, and again and again, until cancelled."""
        while True:
            try:
                await self._say()
            except GodwitError as error:  # the next one that starts reads more, and that is all
                _log.warning("beginning not said", code=error.code, error=error.message)
            await asyncio.sleep(SAID_AGAIN_S)

    async def _find(self) -> Beginning | None:
        stored = await self._event_log.last(_SUBJECT)
        if stored is None:
            return None
        found = beginning.decode(stored.data)
        for subject, sequence in found.standing.items():
            standing = await self._event_log.last(subject)
            if standing is None or standing.sequence != sequence:
                raise CorruptError(f"{subject} does not stand at {sequence}")
        return found

    async def _say(self) -> None:
        found = self._followed.beginning(self._clock.wall_ns())
        if found is None or found == self._said:
            return
        data, message_id = beginning.encode(found), self._clock.new_id()
        await self._event_log.append(_SUBJECT, data, message_id=message_id)
        self._said = found
        _log.info("beginning said", after=found.after_sequence)
