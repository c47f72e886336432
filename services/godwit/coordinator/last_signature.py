"""The signature that comes last: a coordinator's, of a migration's events in their order.

It waits for everybody else's, though not for ever, and comes again if something was written after
it: by whomever, also by a replica that died long before with an append on its way. It is written by
compare-and-set from what the log holds, so that any replica may do it: also for one that died
between a migration's end and its signature. Decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from typing import Final

import structlog

from godwit.runtime.clock import Clock
from godwit.runtime.event_log import AppendConflictError, EventLog
from godwit.runtime.lane import LaneWriter, Scope, position_after
from godwit.runtime.patience import patiently
from godwit.runtime.signing import Signer
from godwit_protocol import codec, subjects
from godwit_protocol.beginning import DONE_WITH_NS
from godwit_protocol.errors import GodwitError, UnreachableError
from godwit_protocol.events import Lane, Recorded
from godwit_protocol.events.migration import MigrationEnded
from godwit_protocol.events.signed import LaneSigned
from godwit_protocol.replay.chains import note
from godwit_protocol.replay.last_signature import awaited, has_ended, is_signed_last
from godwit_protocol.stored import Stored

OTHERS_SIGN_S_MAX: Final = 30.0
"""So long hosts and trackers are waited for; who comes later is signed for later."""
SUCCEED_NS_MAX: Final = DONE_WITH_NS
"""What ended longer ago without a signature is left so: nobody who signed it now was there."""
DUE_MAX: Final = 10_000
"""Migrations of the history that wait for a signature, the newest; and as many of all others."""
LOOKS_MAX: Final = 100
"""At one migration: after each signature that came, and after each of its own."""

_log: Final = structlog.get_logger(__name__)


class LastSignatures:
    """Those of one replica. Used on one event loop."""

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        name: str,
        life: str,
        signer: Signer,
        tasks: asyncio.TaskGroup,
        *,
        others_sign_s_max: float = OTHERS_SIGN_S_MAX,
    ) -> None:
        self._event_log = log
        self._clock = clock
        self._name = name
        self._life = life
        self._signer = signer
        self._tasks = tasks
        self._others_sign_s_max = others_sign_s_max
        self._due: OrderedDict[str, int] = OrderedDict()
        """By migration that may lack its last signature: when the event came that says so."""
        self._told: OrderedDict[str, int] = OrderedDict()
        """By migration, those told of last: how many of its events have come."""
        self._signed: OrderedDict[str, int] = OrderedDict()
        """By migration that a coordinator has signed: when. Whatever comes of it wants another."""
        self._came: dict[str, asyncio.Event] = {}
        """By migration that is looked at: whether something has come since."""

    def learn(self, migration: str, recorded: Recorded, time_ns: int) -> bool:
        """Take an event of a migration; whether it may want a coordinator's signature now."""
        event, before = recorded.event, self._told.get(migration, 0)
        _put_last(self._told, migration, before + 1)
        if isinstance(event, LaneSigned) and recorded.envelope.lane is Lane.COORDINATOR:
            _put_last(self._signed, migration, time_ns)
            if event.seen_events >= before:
                self._due.pop(migration, None)
                return False
        elif not isinstance(event, LaneSigned | MigrationEnded) and migration not in self._signed:
            return False
        _put_last(self._due, migration, time_ns)
        return True

    def due(self) -> list[str]:
        """What ended lately and may lack its last signature: for a replica that starts."""
        since_ns = self._clock.wall_ns() - SUCCEED_NS_MAX
        return [migration for migration, time_ns in self._due.items() if time_ns >= since_ns]

    def look(self, migration: str) -> None:
        """Sign the migration when it is time, if it has ended. This replica has done with it."""
        if migration in self._came:
            self._came[migration].set()
            return
        self._came[migration] = asyncio.Event()
        self._tasks.create_task(self._look(migration))

    async def _look(self, migration: str) -> None:
        """One migration's trouble stays its own; a log that stays silent is everybody's."""
        try:
            await self._sign_last(migration, self._came[migration])
        except UnreachableError:
            raise
        except GodwitError as error:
            _log.error("not signed", migration=migration, code=error.code, error=error.message)
        finally:
            del self._came[migration]

    async def _sign_last(self, migration: str, came: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._others_sign_s_max
        for _ in range(LOOKS_MAX):
            came.clear()
            messages = await patiently(lambda: self._read(migration))
            story = [codec.decode(each.data, each.sequence) for each in messages]
            if not has_ended(story):
                return  # not yet, or it has gone to an archive
            if is_signed_last(story):
                if not came.is_set():
                    return
            elif awaited(story) and loop.time() < deadline_s:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(deadline_s):
                        await came.wait()
            else:
                await self._sign(migration, story[0].envelope.machine, messages)

    async def _read(self, migration: str) -> list[Stored]:
        filters = subjects.whole_migration(migration)
        return [stored async for stored in self._event_log.read(filters)]

    async def _sign(self, migration: str, machine: str, messages: list[Stored]) -> None:
        writer, stored = (Lane.COORDINATOR, self._name), [each.data for each in messages]
        position = position_after(*writer, stored, life=self._life)
        scope = Scope.of_migration(migration, machine)
        lane = LaneWriter(self._clock, *writer, scope, position, life=self._life)
        sealed = lane.sign(self._signer, note(messages))
        standing = (each.sequence for each in messages if each.subject == sealed.subject)
        last = max(standing, default=0)
        with contextlib.suppress(AppendConflictError):  # another replica has signed
            await patiently(lambda: sealed.append_to(self._event_log, expected_last_sequence=last))


def _put_last(kept: OrderedDict[str, int], migration: str, value: int) -> None:
    """Put it behind all others, of which ``DUE_MAX`` are kept."""
    kept[migration] = value
    kept.move_to_end(migration)
    if len(kept) > DUE_MAX:
        kept.popitem(last=False)
