"""Asks a guest, many questions at a time, and keeps account of every one of them.

A question is a message in the log; its reply names it by its message id. All replies come through
one tail of the log, so that a doubled one is seen too. Knows nothing of what is asked.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from godwit.pictures import reading
from godwit_protocol import subjects
from godwit_protocol.errors import DeadlineError, GodwitError, UnreachableError

if TYPE_CHECKING:
    from types import TracebackType

    from godwit.runtime.event_log import EventLog

REQUEST_HEADER: Final = "Godwit-Request"
CLIENT_HEADER: Final = "Godwit-Client"
QUESTIONS_REMEMBERED_MAX: Final = 100_000
"""Questions whose replies are still counted; a reply to an older one is not noticed."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its reply. ``sequence``: the question's place in the order of the guest."""

    sequence: int
    payload: bytes
    reply: bytes
    latency_ns: int


class GuestClient:
    """An async context manager; ``ask`` may be called from any number of tasks at once."""

    def __init__(self, log: EventLog, machine: str, *, name: str = "godwit-cli") -> None:
        from godwit.runtime.clock import SystemClock

        self._log = log
        self._machine = machine
        self._name = name
        self._clock = SystemClock()
        self._open: dict[str, asyncio.Future[bytes]] = {}
        self._replies: dict[str, int] = {}
        self._asked = 0
        self._answered = 0
        self._doubled = 0
        self._quiet_since_ns = 0
        self._longest_gap_ns = 0
        self._follower: asyncio.Task[None] | None = None
        self._failure: GodwitError | None = None

    async def __aenter__(self) -> Self:
        """Begin to follow the replies. Raises ``UnreachableError``."""
        last = await self._log.last(subjects.guest_reply(self._machine))
        after = last.sequence if last else 0
        self._follower = asyncio.create_task(self._follow(after))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Follow no more; questions still open get no answer."""
        if self._follower is not None:
            self._follower.cancel()
            with suppress(asyncio.CancelledError):
                await self._follower

    @property
    def asked(self) -> int:
        """Questions that were put."""
        return self._asked

    @property
    def answered(self) -> int:
        """Questions that got a reply, however late."""
        return self._answered

    @property
    def lost(self) -> int:
        """Questions that have no reply (yet)."""
        return self._asked - self._answered

    @property
    def doubled(self) -> int:
        """Replies to questions that had one already."""
        return self._doubled

    def take_longest_gap_ns(self) -> int:
        """The longest wait for any reply while a question was open, since the last call."""
        longest, self._longest_gap_ns = self._longest_with_now(), 0
        return longest

    async def ask(self, payload: bytes, *, timeout_s: float = 30.0) -> bytes:
        """Return the guest's reply. Raises ``DeadlineError``, and as ``EventLog.append``."""
        return (await self.exchange(payload, timeout_s=timeout_s)).reply

    async def exchange(self, payload: bytes, *, timeout_s: float = 30.0) -> Exchange:
        """As ``ask``, with the figures."""
        if self._failure is not None:
            raise self._failure
        request = self._clock.new_id()
        began_ns = time.monotonic_ns()
        reply = self._expect(request)
        try:
            async with asyncio.timeout(timeout_s):
                sequence = await self._put(request, payload, timeout_s)
                answer = await reply
        except TimeoutError as error:
            raise DeadlineError(
                f"machine {self._machine} gave no reply within {timeout_s:g} s",
                hint="the request stays in the log; the guest may still answer it",
            ) from error
        finally:
            self._open.pop(request, None)
        return Exchange(sequence, payload, answer, time.monotonic_ns() - began_ns)

    def _expect(self, request: str) -> asyncio.Future[bytes]:
        if not self._open:
            self._quiet_since_ns = time.monotonic_ns()
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._open[request] = reply
        self._replies[request] = 0
        self._asked += 1
        if len(self._replies) > QUESTIONS_REMEMBERED_MAX:
            self._replies.pop(next(iter(self._replies)))
        return reply

    async def _put(self, request: str, payload: bytes, timeout_s: float) -> int:
        return await self._log.append(
            subjects.guest_request(self._machine),
            payload,
            message_id=request,
            headers={CLIENT_HEADER: self._name},
            timeout_s=timeout_s,
        )

    async def _follow(self, after_sequence: int) -> None:
        """Take replies until cancelled; if the log is gone for good, every open question fails."""
        filters = (subjects.guest_reply(self._machine),)
        source = reading.messages(self._log, filters, after_sequence=after_sequence, follow=True)
        try:
            async with aclosing(source):
                async for stored in source:
                    self._take(stored.headers.get(REQUEST_HEADER, ""), stored.data)
        except UnreachableError as error:
            self._failure = error
            for reply in self._open.values():
                if not reply.done():
                    reply.set_exception(error)

    def _take(self, request: str, data: bytes) -> None:
        if request not in self._replies:
            return
        self._replies[request] += 1
        if self._replies[request] > 1:
            self._doubled += 1
            return
        self._answered += 1
        self._longest_gap_ns = self._longest_with_now()
        self._quiet_since_ns = time.monotonic_ns()
        reply = self._open.get(request)
        if reply is not None and not reply.done():
            reply.set_result(data)

    def _longest_with_now(self) -> int:
        if not self._open:
            return self._longest_gap_ns
        return max(self._longest_gap_ns, time.monotonic_ns() - self._quiet_since_ns)
