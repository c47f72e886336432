"""A bounded outbox for appends that may lag behind what they report.

Each lane is stored in order, one append at a time; lanes run beside each other. An append is tried
until it is stored or the outbox is closed: an outbox that gave up would leave a hole in the log. It
lives in memory: what must survive this process's death is in a journal first.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from godwit.runtime.event_log import EventLog
from godwit.runtime.patience import READ_BACK_AFTER_S
from godwit_protocol.errors import (
    DeadlineError,
    GodwitError,
    InvalidInputError,
    LocalProtocolError,
    RefusedError,
)
from godwit_protocol.stored import MESSAGE_ID_HEADER

MESSAGES_MAX: Final = 10_000
BYTES_MAX: Final = 64 * 1024 * 1024
APPENDS_IN_FLIGHT_MAX: Final = 64
APPEND_S_MAX: Final = 5.0
BACKOFF_S_MIN: Final = 0.1
BACKOFF_S_MAX: Final = 5.0

_log: Final = structlog.get_logger(__name__)


class OutboxFullError(RefusedError):
    """There is no room; nothing was taken."""


@dataclass(frozen=True, slots=True)
class _Pending:
    subject: str
    data: bytes
    message_id: str
    headers: Callable[[], Mapping[str, str]]
    since_s: float
    stored: asyncio.Future[bool]


class Outbox:
    """Appends to ``log`` in the background. Belongs to one event loop."""

    def __init__(
        self, log: EventLog, *, messages_max: int = MESSAGES_MAX, bytes_max: int = BYTES_MAX
    ) -> None:
        self._event_log = log
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._lanes: dict[str, deque[_Pending]] = {}
        self._workers: dict[str, asyncio.Task[None]] = {}
        self._in_flight = asyncio.Semaphore(APPENDS_IN_FLIGHT_MAX)
        self._empty = asyncio.Event()
        self._empty.set()
        self._closed = False
        self._depth = 0
        self._bytes = 0
        self._refused = 0

    @property
    def depth(self) -> int:
        """How many messages are not yet stored."""
        return self._depth

    @property
    def refused(self) -> int:
        """How many messages the log will never take: each was logged as an error."""
        return self._refused

    @property
    def oldest_age_s(self) -> float:
        """How long the oldest message has waited; 0 if there is none."""
        waiting = (lane[0].since_s for lane in self._lanes.values())
        now_s = asyncio.get_running_loop().time()
        return now_s - min(waiting, default=now_s)

    def put(
        self,
        subject: str,
        data: bytes,
        message_id: str,
        headers: Callable[[], Mapping[str, str]] = dict,
        *,
        lane: str | None = None,
    ) -> asyncio.Future[bool]:
        """Take a message; never waits. Messages of one ``lane`` are stored in this order.

        The lane is by default the subject without its last token, the event's type. ``headers`` are
        made when it goes out. The future that is returned becomes true once the message is stored,
        false if the log will never take it, and is cancelled by ``close``. Raises
        ``OutboxFullError``, or ``LocalProtocolError`` after ``close``.
        """
        if self._closed:
            raise LocalProtocolError("the outbox is closed")
        if self._depth >= self._messages_max or self._bytes + len(data) > self._bytes_max:
            raise OutboxFullError(
                f"the outbox holds {self._depth} messages of {self._bytes} bytes and is full",
                hint="the event log is slow or unreachable",
            )
        loop = asyncio.get_running_loop()
        stored = loop.create_future()
        pending = _Pending(subject, data, message_id, headers, loop.time(), stored)
        self._count(pending, +1)
        self._enqueue(lane or subject.rpartition(".")[0], pending)
        return stored

    async def flush(self, timeout_s: float) -> None:
        """Wait until all is stored. Raises ``DeadlineError``; what is left stays and goes on."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError as error:
            raise DeadlineError(
                f"the outbox still holds {self._depth} messages after {timeout_s:g} s"
            ) from error

    async def close(self) -> int:
        """Stop at once; ``flush`` first. Returns how many messages were not stored, or may not be.

        Idempotent.
        """
        self._closed = True
        for worker in self._workers.values():
            worker.cancel()
        await asyncio.gather(*self._workers.values(), return_exceptions=True)
        for pending in itertools.chain.from_iterable(self._lanes.values()):
            pending.stored.cancel()
        if self._depth:
            _log.error("outbox closed with messages", depth=self._depth)
        return self._depth

    def _enqueue(self, lane: str, pending: _Pending) -> None:
        self._lanes.setdefault(lane, deque()).append(pending)
        if lane not in self._workers:
            self._workers[lane] = asyncio.create_task(self._deliver(lane), name=f"outbox {lane}")

    def _count(self, pending: _Pending, sign: int) -> None:
        self._depth += sign
        self._bytes += sign * len(pending.data)
        if self._depth:
            self._empty.clear()
        else:
            self._empty.set()

    async def _deliver(self, lane: str) -> None:
        """Store a lane's messages until there is none. A lane exists only while it has one."""
        waiting = self._lanes[lane]
        while waiting:
            is_stored = await self._store(waiting[0])
            pending = waiting.popleft()
            self._count(pending, -1)
            if not pending.stored.done():
                pending.stored.set_result(is_stored)
        del self._lanes[lane], self._workers[lane]

    async def _store(self, pending: _Pending) -> bool:
        """Try until it is stored; False if the log will never take it."""
        backoff_s = BACKOFF_S_MIN
        while True:
            try:
                async with self._in_flight:
                    await self._attempt(pending)
            except InvalidInputError as error:
                self._refused += 1
                _log.error(
                    "event log will never take it",
                    subject=pending.subject,
                    message_id=pending.message_id,
                    error=error.message,
                )
                return False
            except GodwitError as error:
                _log.warning("append delayed", subject=pending.subject, error=error.message)
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, BACKOFF_S_MAX)
            else:
                return True

    async def _attempt(self, pending: _Pending) -> None:
        waited_s = asyncio.get_running_loop().time() - pending.since_s
        if waited_s > READ_BACK_AFTER_S and await self._is_stored(pending):
            return
        await self._event_log.append(
            pending.subject,
            pending.data,
            message_id=pending.message_id,
            headers=pending.headers(),
            timeout_s=APPEND_S_MAX,
        )

    async def _is_stored(self, pending: _Pending) -> bool:
        """A lane has one writer: if an unclear attempt succeeded, it is its subject's last."""
        last = await self._event_log.last(pending.subject)
        return last is not None and last.headers.get(MESSAGE_ID_HEADER) == pending.message_id
