"""The event log for those who may only watch it: history by direct questions, live subjects joined.

The NATS user ``watch`` (deploy/nats-users.conf) cannot create a consumer. It can hear each event
once more when it is stored, with its place in the log, and ask a stream for what it holds. Places
have no gaps, and so whoever misses one knows it: what is heard out of turn is not taken, but read
from the history, together with what is missing before it. What was the last and was lost on its
way is found because the history is looked at after each silence.

Any server of a cluster may answer, and may lag: then it says less, and is asked again. Knows the
connection only as ``WatchConnection``, and nothing of what a message means.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from enum import Enum, auto
from typing import Any, Final, NamedTuple, Protocol

import structlog

from godwit.runtime import jetstream_api as api
from godwit.runtime.pull_reader import Message, one_stream
from godwit_protocol.stored import Stored
from godwit_protocol.subjects import EVENTS, LIVE_ROOT, ROOT, matches, stream_of

INBOX_PREFIX: Final = "_INBOX.watch"
"""Where the user ``watch`` may be answered."""
LIVE_MESSAGES_MAX: Final = 1024
"""That wait to be taken; more are dropped, and read from the history."""
LOOK_S: Final = 1.0
"""After so long a silence the history is looked at. A stream without live subjects is silent."""
BATCH_MESSAGES: Final = 256
BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
ANSWER_S_MAX: Final = 5.0
"""How long a tail waits for one answer, before it asks again."""

EVERYTHING: Final = f"{ROOT}.>"
_log: Final = structlog.get_logger(__name__)

End = Callable[[], Awaitable[None]]


class WatchConnection(Protocol):
    """What watching needs of a connection."""

    @property
    def is_connected(self) -> bool:
        """Whether the server can be asked right now."""

    async def post_api(self, call: str, request: dict[str, Any], reply_to: str) -> None:
        """Send a request to the JetStream API without waiting; may be lost."""

    async def subscribe(self, subject: str, keep: Callable[[Any], None]) -> End:
        """Give what comes on ``subject`` to ``keep``; return how to end that."""

    async def subscribe_inbox(self, keep: Callable[[Any], None]) -> tuple[str, End]:
        """Return a fresh subject whose messages go to ``keep``, and how to end that."""

    def listen(self, subjects: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        """As ``EventLog.listen``."""


class Turn(Enum):
    """What a message that was heard live is to whoever has all up to a place."""

    GIVEN = auto()
    NEXT = auto()
    AFTER_A_GAP = auto()


def turn_of(sequence: int, last: int) -> Turn:
    """What ``sequence`` is to whoever was given all up to ``last``. Pure."""
    if sequence <= last:
        return Turn.GIVEN
    return Turn.NEXT if sequence == last + 1 else Turn.AFTER_A_GAP


class _Live:
    """What was heard and not taken yet."""

    def __init__(self) -> None:
        self._heard = deque[Stored]()
        self._arrived = asyncio.Event()

    def keep(self, message: Message) -> None:
        """Take a message from the connection. Another watcher can have the server send its answers
        here: of the events' stream they are what they say, of another their places mean nothing.
        """
        if (message.headers or {}).get(api.STREAM_HEADER) != EVENTS:
            return
        if len(self._heard) < LIVE_MESSAGES_MAX:
            self._heard.append(_stored(message))
            self._arrived.set()

    async def next(self, last: int) -> Stored | None:
        """The message after ``last``; None when it is the history that should be looked at."""
        try:
            async with asyncio.timeout(LOOK_S):
                while True:
                    while self._heard:
                        heard = self._heard.popleft()
                        turn = turn_of(heard.sequence, last)
                        if turn is not Turn.GIVEN:
                            return heard if turn is Turn.NEXT else None
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            return None


class First(NamedTuple):
    """A message, and how many more of its subject stand after it."""

    stored: Stored
    more: int


class _Answer(NamedTuple):
    messages: tuple[Stored, ...]
    pending: int
    """How many more there are."""


class WatchingLog:
    """Implements ``godwit.runtime.event_log.LogReader`` with nothing but a watcher's rights."""

    def __init__(self, connection: WatchConnection) -> None:
        self._connection = connection
        self._silent = set[str]()
        """Streams that are followed, and did not tell their history when they were last asked."""

    @property
    def is_connected(self) -> bool:
        """Whether what a tail gives is all there is: the server is there, and answers."""
        return self._connection.is_connected and not self._silent

    async def last(self, subject: str, *, timeout_s: float = ANSWER_S_MAX) -> Stored | None:
        """As ``LogReader.last``; wildcards are allowed."""
        question = {"last_by_subj": subject}
        found = (await self._ask(stream_of(subject), question, timeout_s)).messages
        return found[0] if found else None

    async def first_after(self, subject: str, after: int) -> First | None:
        """The first message of a subject, which may have wildcards, after a place; None if there is
        none. Raises ``UnreachableError``.
        """
        question = {"seq": after + 1, "next_by_subj": subject, "batch": 1}
        answer = await self._ask(stream_of(subject), question, ANSWER_S_MAX)
        return First(answer.messages[0], answer.pending) if answer.messages else None

    async def read(
        self, subjects: Sequence[str], *, after_sequence: int = 0
    ) -> AsyncGenerator[Stored, None]:
        """As ``LogReader.read``."""
        one_stream(subjects)
        ends = [await self.last(subject) for subject in subjects]
        end = max((each.sequence for each in ends if each is not None), default=0)
        async with AsyncExitStack() as opened:
            sources = [self._history(subject, after_sequence) for subject in subjects]
            for source in sources:
                await opened.enter_async_context(aclosing(source))
            async for stored in _merged(sources):
                if stored.sequence > end:
                    return
                yield stored

    async def tail(
        self, subjects: Sequence[str], *, after_sequence: int = 0
    ) -> AsyncGenerator[Stored, None]:
        """As ``LogReader.tail``."""
        filters = [subject.split(".") for subject in subjects]
        async with aclosing(self._all_of(one_stream(subjects), after_sequence)) as everything:
            async for stored in everything:
                if any(matches(each, stored.subject.split(".")) for each in filters):
                    yield stored

    def listen(self, subjects: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        """As ``EventLog.listen``."""
        return self._connection.listen(subjects)

    async def _all_of(self, stream: str, last: int) -> AsyncGenerator[Stored, None]:
        async with AsyncExitStack() as opened:
            live = _Live()
            if stream == EVENTS:
                end = await self._connection.subscribe(f"{LIVE_ROOT}.>", live.keep)
                opened.push_async_callback(end)
            while True:
                async with aclosing(self._history_if_told(stream, last)) as history:
                    async for stored in history:
                        last = stored.sequence
                        yield stored
                while (heard := await live.next(last)) is not None:
                    self._silent.discard(stream)
                    last = heard.sequence
                    yield heard

    async def _history_if_told(self, stream: str, after: int) -> AsyncGenerator[Stored, None]:
        """As far as it is told now: a server may be restarting."""
        try:
            async with aclosing(self._history(EVERYTHING, after, stream)) as history:
                async for stored in history:
                    yield stored
            self._silent.discard(stream)
        except api.LogSilentError as error:
            self._silent.add(stream)
            _log.debug("history not told", stream=stream, error=error.message)

    async def _history(
        self, subject: str, after: int, stream: str = ""
    ) -> AsyncGenerator[Stored, None]:
        """All that one subject, which may have wildcards, has now. ``stream``: of this one."""
        stream = stream or stream_of(subject)
        bounds = {"batch": BATCH_MESSAGES, "max_bytes": BATCH_BYTES_MAX}
        while True:
            question = {"seq": after + 1, "next_by_subj": subject, **bounds}
            answer = await self._ask(stream, question, ANSWER_S_MAX)
            for stored in answer.messages:
                after = stored.sequence
                yield stored
            if not answer.messages or not answer.pending:
                return

    async def _ask(self, stream: str, question: dict[str, Any], timeout_s: float) -> _Answer:
        """One direct question. Raises ``UnreachableError`` if it is not answered in time."""
        arrived = asyncio.Queue[Message]()  # no more than was asked for
        inbox, end = await self._connection.subscribe_inbox(arrived.put_nowait)
        try:
            async with asyncio.timeout(timeout_s):
                await self._connection.post_api(f"DIRECT.GET.{stream}", question, inbox)
                return await _answer(arrived, whole="batch" not in question)
        except TimeoutError as error:
            raise api.LogSilentError(
                f"the event log did not tell of {stream} within {timeout_s:g} s",
                hint="is it provisioned, and may this user watch it (docs/watching.md)?",
            ) from error
        finally:
            await end()


async def _answer(arrived: asyncio.Queue[Message], *, whole: bool) -> _Answer:
    """Take an answer's messages; one that is ``whole`` is a single message, or none."""
    messages: list[Stored] = []
    while True:
        message = await arrived.get()
        headers = message.headers or {}
        match headers.get(api.STATUS_HEADER):
            case None:
                messages.append(_stored(message))
            case api.STATUS_NO_RESPONDERS:
                continue  # A server that starts or is gone: the deadline says so.
            case _:
                return _Answer(tuple(messages), int(headers.get(api.NUM_PENDING_HEADER, 0)))
        if whole:
            return _Answer(tuple(messages), 0)


def _stored(message: Message) -> Stored:
    """A message as the stream holds it; its own headers have the server's beside them."""
    headers = message.headers or {}
    return Stored(
        headers.get(api.SUBJECT_HEADER, message.subject),
        int(headers[api.SEQUENCE_HEADER]),
        api.time_ns(headers[api.TIME_HEADER]) if api.TIME_HEADER in headers else 0,
        message.data,
        headers,
    )


async def _merged(sources: Sequence[AsyncGenerator[Stored, None]]) -> AsyncGenerator[Stored, None]:
    """All messages by their places, each once."""
    heads = {source: await anext(source, None) for source in sources}
    last = 0
    while found := [(head.sequence, source) for source, head in heads.items() if head is not None]:
        sequence, source = min(found, key=lambda each: each[0])
        head, heads[source] = heads[source], await anext(source, None)
        if head is not None and sequence > last:
            last = sequence
            yield head
