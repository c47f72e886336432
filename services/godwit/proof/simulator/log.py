"""A simulated event log: the server's streams, and the port as one process reaches it.

What can happen is what ``runtime.nats_log`` can show: a request or its answer is lost and tried
again under the same message id; a request arrives seconds later, when its sender has given up; the
server has no leader for seconds; a tail stalls, but loses nothing and gives nothing twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from godwit.runtime.event_log import AppendConflictError
from godwit_protocol import register, subjects
from godwit_protocol.errors import UnreachableError
from godwit_protocol.stored import MESSAGE_ID_HEADER, Stored
from godwit_protocol.subjects import REGISTER, STREAM_SUBJECTS, stream_of

from .clock import EPOCH_NS
from .faults import Fault
from .process import Process, World
from .streams import Stream

TRIP_S: Final = 0.0002
FIRST_ATTEMPT_S: Final = 0.5
RETRY_S: Final = 0.1
LATE_S_MAX: Final = 8.0
DELIVERY_LATE_S_MAX: Final = 3.0
READ_S_MAX: Final = 5.0
DUPLICATES_S: Final = 120.0
LOSS_S: Final = (0.0005, 0.01, 0.5)
"""Within such times the leader that alone has a record may die."""
ELECTION_S_MAX: Final = 7.0
_REGISTERS: Final = subjects.register("")


class _Refusal:
    """What the server answers when the expected sequence is not the last."""


_REFUSED: Final = _Refusal()
_SILENT: Final = object()


class LogServer:
    """All streams. ``on_stored`` sees every message in the instant in which it is stored."""

    def __init__(
        self,
        world: World,
        on_stored: Callable[[Stored], None],
        on_lost: Callable[[Stored, Stored | None], None],
    ) -> None:
        self.world = world
        self.clock_offset_ns = 0
        self.down_until_s = 0.0
        self.streams = {name: Stream() for name in STREAM_SUBJECTS}
        self._on_stored = on_stored
        self._on_lost = on_lost
        self._losers: set[str] = set()
        """Migrations of which a register record was lost."""

    @property
    def is_down(self) -> bool:
        """Whether there is no leader."""
        return self.down_until_s > self.world.loop.time()

    def append(
        self, subject: str, data: bytes, message_id: str, expected: int | None
    ) -> int | _Refusal:
        """Store a message, or say which one stands in its place."""
        stream = self.streams[stream_of(subject)]
        now_s = self.world.loop.time()
        known = stream.by_message_id.get(message_id)
        if known is not None and now_s - known[1] < DUPLICATES_S:
            return known[0]
        if expected is not None and expected != self._last_sequence(stream, subject):
            return self._own_earlier(stream, subject, message_id, expected)
        sequence = len(stream.messages) + 1
        stored = Stored(
            subject,
            sequence,
            EPOCH_NS + int(now_s * 1e9) + self.clock_offset_ns,
            data,
            {MESSAGE_ID_HEADER: message_id},
        )
        stream.add(stored, now_s)
        self._on_stored(stored)
        stream.deliver()
        if stream is self.streams[REGISTER]:
            self._may_lose(stream, stored)
        return sequence

    def _may_lose(self, stream: Stream, stored: Stored) -> None:
        """Once a migration, a register record can be lost by a leader that dies, and its flush."""
        if stored.subject.startswith(_REGISTERS) and self.world.weather.can(Fault.LOG_WRITE_LOST):
            dice = self.world.dice
            self.world.loop.after(dice.choice(LOSS_S) * dice.random(), self._lose, stream, stored)

    def _lose(self, stream: Stream, stored: Stored) -> None:
        migration = register.decode(stored.data).migration
        if stream.messages[-1] is not stored or not migration or migration in self._losers:
            return
        if self.world.weather.strikes(Fault.LOG_WRITE_LOST):
            self._losers.add(migration)
            before = stream.lose_last()
            self._on_lost(stored, before)
            self.down_until_s = self.world.loop.time() + self.world.dice.random() * ELECTION_S_MAX

    def last(self, subject: str) -> Stored | None:
        """The subject's last message."""
        return self.streams[stream_of(subject)].last(subject)

    def find(self, filters: Sequence[str], after_sequence: int) -> list[Stored]:
        """All messages that match, in order."""
        return self.streams[stream_of(filters[0])].find(filters, after_sequence)

    def _last_sequence(self, stream: Stream, subject: str) -> int:
        indices = stream.by_subject.get(subject)
        return indices[-1] + 1 if indices else 0

    def _own_earlier(
        self, stream: Stream, subject: str, message_id: str, expected: int
    ) -> int | _Refusal:
        later = [index for index in stream.by_subject.get(subject, ()) if index >= expected]
        if later:
            first = stream.messages[later[0]]
            if first.headers[MESSAGE_ID_HEADER] == message_id:
                return first.sequence
        return _REFUSED


class Tail:
    """One subscription: history, then what comes, in order and without a gap."""

    def __init__(
        self, log: ProcessLog, server: LogServer, filters: Sequence[str], after_sequence: int
    ) -> None:
        self.process = log.process
        self.filters = filters
        self._log = log
        self._server = server
        self._after_sequence = after_sequence
        self._stream = server.streams[stream_of(filters[0])]
        self._arrived: deque[Stored] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._last_s = 0.0
        self._joined = False

    def __aiter__(self) -> Tail:
        return self

    async def __anext__(self) -> Stored:
        if not self._joined:
            self._joined = True
            self._stream.join(self)
            for stored in self._stream.find(self.filters, self._after_sequence):
                self.deliver(stored)
        while not self._arrived:
            self._waiting = self.process.world.loop.create_future()
            await self._waiting
        return self._arrived.popleft()

    @property
    def alive(self) -> bool:
        """As ``Reader.alive``."""
        return self.process.alive

    def deliver(self, stored: Stored) -> None:
        """Bring a message, some time after all before it."""
        world = self.process.world
        late_s = 0.0
        if world.weather.strikes(Fault.LOG_DELIVERY_LATE):
            late_s = world.dice.random() * DELIVERY_LATE_S_MAX
        now_s = world.loop.time()
        log = self._log
        ready_s = max(now_s, log.cut_until_s, log.deaf_until_s, self._server.down_until_s)
        arrives_s = max(ready_s + world.latency_s(TRIP_S) + late_s, self._last_s)
        self._last_s = arrives_s
        world.loop.at(arrives_s, self._arrive, stored)

    def _arrive(self, stored: Stored) -> None:
        if not self.process.alive:
            return
        self._arrived.append(stored)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


@dataclass
class _Given:
    """An iterator over what was found."""

    found: deque[Stored] | None
    fetch: Callable[[], Any]

    def __aiter__(self) -> _Given:
        return self

    async def __anext__(self) -> Stored:
        if self.found is None:
            self.found = deque(await self.fetch())
        if not self.found:
            raise StopAsyncIteration
        return self.found.popleft()


class ProcessLog:
    """``runtime.event_log.EventLog`` of one process."""

    def __init__(self, server: LogServer, process: Process) -> None:
        self.process = process
        self.cut_until_s = 0.0
        """Nothing passes until then."""
        self.deaf_until_s = 0.0
        """Nothing comes back until then."""
        self._has_vanished = False
        self._server = server
        self._world = process.world

    def heal(self) -> None:
        """End what lasts."""
        self.cut_until_s = self.deaf_until_s = 0.0

    def vanish(self) -> None:
        """The host lost its power: what was still on its way from it never comes."""
        self._has_vanished = True

    async def append(
        self,
        subject: str,
        data: bytes,
        *,
        message_id: str,
        expected_last_sequence: int | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
    ) -> int:
        """As ``EventLog.append``."""
        self.process.step(f"before the append of {subject}")
        server = self._server

        def store() -> int | _Refusal:
            return server.append(subject, data, message_id, expected_last_sequence)

        answer = await self._ask(store, timeout_s, subject)
        self.process.step(f"after the append of {subject}")
        if answer is _REFUSED:
            raise AppendConflictError(f"{subject} does not end at {expected_last_sequence}")
        assert isinstance(answer, int)
        return answer

    async def last(self, subject: str, *, timeout_s: float = 5.0) -> Stored | None:
        """As ``EventLog.last``."""
        found: Stored | None = await self._ask(
            lambda: self._server.last(subject), timeout_s, subject
        )
        return found

    def read(self, subjects: Sequence[str], *, after_sequence: int = 0) -> AsyncIterator[Stored]:
        """As ``EventLog.read``."""
        server = self._server
        return _Given(
            None,
            lambda: self._ask(
                lambda: server.find(subjects, after_sequence), READ_S_MAX, subjects[0]
            ),
        )

    def tail(self, subjects: Sequence[str], *, after_sequence: int = 0) -> AsyncIterator[Stored]:
        """As ``EventLog.tail``."""
        return Tail(self, self._server, subjects, after_sequence)

    async def announce(self, subject: str, data: bytes) -> None:
        """As ``EventLog.announce``: nobody relies on it, so nobody hears it here."""
        self.process.check()

    async def listen(self, subjects: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        """As ``EventLog.listen``. No service listens."""
        raise AssertionError(f"nobody announces on {subjects}")
        yield "", b""

    async def close(self) -> None:
        """As ``EventLog.close``."""

    async def _ask(self, act: Callable[[], Any], timeout_s: float, subject: str) -> Any:
        """Send until there is an answer: the real client repeats every request too."""
        self.process.check()
        loop = self._world.loop
        deadline_s = loop.time() + timeout_s
        attempt_s = FIRST_ATTEMPT_S
        while (left_s := deadline_s - loop.time()) > 1e-6:
            answer: asyncio.Future[Any] = loop.create_future()
            self._send(act, answer, min(left_s, attempt_s))
            found = await answer
            if found is not _SILENT:
                return found
            attempt_s *= 2
            await asyncio.sleep(RETRY_S)
        raise UnreachableError(
            f"the event log did not answer on {subject} within {timeout_s:g} s",
            hint="what was asked may or may not have happened",
        )

    def _send(self, act: Callable[[], Any], answer: asyncio.Future[Any], attempt_s: float) -> None:
        weather, loop = self._world.weather, self._world.loop
        trip_s = self._world.latency_s(TRIP_S) + self.process.lag_s()
        if self.cut_until_s > loop.time() or weather.strikes(Fault.LOG_REQUEST_LOST):
            loop.after(attempt_s, _settle, answer, _SILENT)
            return
        if weather.strikes(Fault.LOG_REQUEST_LATE):
            trip_s += weather.dice.random() * LATE_S_MAX
        if trip_s >= attempt_s:
            loop.after(attempt_s, _settle, answer, _SILENT)
        loop.after(trip_s, self._arrive, act, answer, attempt_s - trip_s)
        if weather.strikes(Fault.LOG_REQUEST_TWICE):
            loop.after(trip_s + weather.dice.random() * LATE_S_MAX, self._arrive_again, act)

    def _arrive_again(self, act: Callable[[], Any]) -> None:
        """A copy of a request: nobody waits for what it gives."""
        if not self._server.is_down and not self._has_vanished:
            act()

    def _arrive(self, act: Callable[[], Any], answer: asyncio.Future[Any], left_s: float) -> None:
        world = self._world
        if self._has_vanished:
            return
        if self._server.is_down:
            world.loop.after(max(left_s, 0.0), _settle, answer, _SILENT)
            return
        found = act()
        lost = world.weather.strikes(Fault.LOG_ANSWER_LOST)
        back_s = world.latency_s(TRIP_S)
        now_s = world.loop.time()
        if lost or back_s > left_s or self.cut_until_s > now_s or self.deaf_until_s > now_s:
            world.loop.after(max(left_s, 0.0), _settle, answer, _SILENT)
        else:
            world.loop.after(back_s, _settle, answer, found)


def _settle(answer: asyncio.Future[Any], found: Any) -> None:
    if not answer.done():
        answer.set_result(found)
