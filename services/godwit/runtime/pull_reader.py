"""One ordered reading of one stream, over as many JetStream consumers as it takes.

The messages come through an ephemeral pull consumer that acknowledges nothing. Pulling bounds what
is in flight, whatever the caller's pace, and a pull request that waits gives live messages as they
come. Each delivery carries a consumer sequence without gaps: a gap, a silence or a reconnect ends
the consumer, and a new one begins after the last message that was given.

In a cluster a consumer reads the copy of the stream on its own server, which may lag: it cannot say
where the history ends. The stream's leader is asked for that.

It must not know the client library: what it needs of a connection is ``PullConnection``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol
from uuid import uuid4

import structlog

from godwit.runtime import jetstream_api as api
from godwit_protocol.errors import InvalidInputError, UnreachableError
from godwit_protocol.stored import Stored
from godwit_protocol.subjects import stream_of

MESSAGES_IN_FLIGHT_MAX: Final = 512
TOGETHER_MAX: Final = 128
"""Given together; what is in flight goes on meanwhile."""
PULL_BYTES_MAX: Final = 16 * 1024 * 1024
PULL_EXPIRES_S: Final = 30.0
HEARTBEAT_S: Final = 1.0
SILENCE_S_MAX: Final = 2.5
"""Without a message or a heartbeat for so long, the reader asks for a new consumer."""
HISTORY_SILENCE_S_MAX: Final = 10.0
"""A reading of history fails when nothing comes for so long."""
OPEN_S_MAX: Final = 5.0
RETRY_WAIT_S: Final = 0.05
CONSUMER_INACTIVE_S: Final = 60.0
"""The server forgets a consumer that nobody has pulled from for so long."""

_log: Final = structlog.get_logger(__name__)


class Message(Protocol):
    """A message as the client library gives it."""

    subject: str
    reply: str
    data: bytes

    @property
    def headers(self) -> Mapping[str, str] | None:
        """The message's headers."""


class PullConnection(Protocol):
    """What a reader needs of the connection."""

    async def ask_api(
        self, call: str, request: dict[str, Any], shape: type[api.ReplyT], timeout_s: float
    ) -> api.ReplyT:
        """Ask the JetStream API."""

    async def post_api(self, call: str, request: dict[str, Any], reply_to: str) -> None:
        """Send a request to the JetStream API without waiting; may be lost."""

    async def subscribe_inbox(
        self, keep: Callable[[Any], None]
    ) -> tuple[str, Callable[[], Awaitable[None]]]:
        """Return a fresh subject whose messages go to ``keep``, and how to end that."""

    async def last(self, subject: str, *, timeout_s: float) -> Stored | None:
        """The last message that the stream's leader has of a subject, which may have wildcards."""


class PullReader:
    """Gives the messages after ``after_sequence`` that match ``subjects``, in order.

    With ``history_only`` it ends after those that were there when it was first asked.
    """

    def __init__(
        self,
        connection: PullConnection,
        subjects: Sequence[str],
        after_sequence: int,
        *,
        history_only: bool,
    ) -> None:
        self._connection = connection
        self._stream = one_stream(subjects)
        self._filters = tuple(subjects)
        self._last_sequence = after_sequence
        self._history_only = history_only
        self._history_end: int | None = None
        """The last sequence of the history; None until the leader has told it, and for a tail."""
        self._inbox = ""
        self._unsubscribe: Callable[[], Awaitable[None]] | None = None
        self._consumer = ""
        self._consumer_sequence = 0
        self._asked = 0
        self._arrived: deque[Message] = deque()
        self._wake = asyncio.Event()
        self._expired = True

    def expire(self) -> None:
        """Begin a new consumer: this one may be gone, or may have lost something."""
        self._expired = True
        self._wake.set()

    async def some(self) -> Sequence[Stored]:
        """The next messages, as many as have come; none after the end of the history.

        Raises ``UnreachableError`` if the connection is closed for good or, while reading history,
        if nothing comes for ``HISTORY_SILENCE_S_MAX``; ``InvalidInputError`` if there is no stream.
        """
        if not self._history_only:
            return await self._some()
        try:
            async with asyncio.timeout(HISTORY_SILENCE_S_MAX):
                return await self._some()
        except TimeoutError as error:
            raise UnreachableError(
                f"the event log was silent for {HISTORY_SILENCE_S_MAX:g} s"
                f" while {self._stream} was read after {self._last_sequence}"
            ) from error

    async def close(self) -> None:
        """Let the server forget the consumer. Waits for nothing."""
        if self._unsubscribe is not None:
            await self._unsubscribe()
            self._unsubscribe = None
            delete = f"CONSUMER.DELETE.{self._stream}.{self._consumer}"
            await self._connection.post_api(delete, {}, self._inbox)

    @property
    def _is_over(self) -> bool:
        return self._history_end is not None and self._last_sequence >= self._history_end

    async def _some(self) -> Sequence[Stored]:
        taken: list[Stored] = []
        while not taken and not self._is_over:
            if self._expired:
                await self._open()
                continue
            await self._pull()
            if not self._arrived:
                await self._wait()
            taken = self._take_arrived()
        return taken

    def _take_arrived(self) -> list[Stored]:
        """To wait for each by itself would take a fifth of a reading's time."""
        taken: list[Stored] = []
        while self._arrived and len(taken) < TOGETHER_MAX and not (self._expired or self._is_over):
            stored = self._take(self._arrived.popleft())
            if stored is not None:
                taken.append(stored)
        return taken

    async def _open(self) -> None:
        """Begin a consumer after the last message given. Ends when the connection is closed."""
        await self.close()
        self._expired = False
        if self._history_only:
            await self._find_end()
            if self._is_over:
                return
        arrived: deque[Message] = deque()
        self._arrived = arrived
        self._asked = self._consumer_sequence = 0

        def keep(message: Message) -> None:
            arrived.append(message)
            self._wake.set()

        self._inbox, self._unsubscribe = await self._connection.subscribe_inbox(keep)
        await self._create_consumer()
        await self._pull()

    async def _find_end(self) -> None:
        """Where the history ends. Asked again it may end earlier, if limits have removed its end;
        it never grows.
        """
        last, wait_s = self._connection.last, HISTORY_SILENCE_S_MAX
        lasts = await asyncio.gather(*(last(each, timeout_s=wait_s) for each in self._filters))
        end = max((each.sequence for each in lasts if each is not None), default=0)
        self._history_end = end if self._history_end is None else min(end, self._history_end)

    async def _create_consumer(self) -> None:
        """Each attempt has a name of its own: one that a cluster has given to a server which then
        died is answered only when that server is back.
        """
        while True:
            self._consumer = f"godwit-{uuid4().hex}"
            call = f"CONSUMER.CREATE.{self._stream}.{self._consumer}"
            request = api.consumer_request(
                self._stream,
                self._consumer,
                self._filters,
                after_sequence=self._last_sequence,
                inactive_s=CONSUMER_INACTIVE_S,
            )
            try:
                reply = await self._connection.ask_api(call, request, api.ConsumerReply, OPEN_S_MAX)
            except api.LogSilentError:
                _log.warning("event log silent", stream=self._stream, after=self._last_sequence)
                continue
            if reply.error is not None:
                raise InvalidInputError(
                    f"{', '.join(self._filters)} cannot be read from stream {self._stream}:"
                    f" {reply.error.description}",
                    hint="godwit.runtime.provision creates the streams",
                )
            return

    async def _wait(self) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(SILENCE_S_MAX):
                await self._wake.wait()
        except TimeoutError:
            self._expired = True

    def _take(self, message: Message) -> Stored | None:
        """Return what ``message`` holds; None if it is only about the delivery, or out of order."""
        headers = message.headers or {}
        if api.STATUS_HEADER in headers and not message.reply.startswith(api.DELIVERY_PREFIX):
            self._take_status(headers)
            return None
        position = api.delivery_position(message.reply)
        if position.consumer_sequence != self._consumer_sequence + 1:
            _log.warning("gap in delivery", stream=self._stream, after=self._last_sequence)
            self._expired = True
            return None
        self._consumer_sequence = position.consumer_sequence
        self._last_sequence = position.stream_sequence
        self._asked -= 1
        if self._history_end is not None and position.stream_sequence > self._history_end:
            return None
        return Stored(
            message.subject, position.stream_sequence, position.time_ns, message.data, headers
        )

    def _take_status(self, headers: Mapping[str, str]) -> None:
        """A heartbeat, the end of a pull request, or the end of the consumer."""
        if headers[api.STATUS_HEADER] == api.STATUS_HEARTBEAT:
            # While history is missing there is no reason for silence, unless it has expired since.
            self._expired = self._expired or self._history_only
        elif api.PENDING_MESSAGES_HEADER in headers:
            self._asked -= int(headers[api.PENDING_MESSAGES_HEADER])
        else:
            self._expired = True

    async def _pull(self) -> None:
        """Keep enough asked for, in large steps."""
        wanted = MESSAGES_IN_FLIGHT_MAX
        if self._expired or self._is_over or self._asked > wanted // 2:
            return
        request = api.pull_request(
            wanted - self._asked,
            bytes_max=PULL_BYTES_MAX,
            expires_s=PULL_EXPIRES_S,
            heartbeat_s=HEARTBEAT_S,
        )
        self._asked = wanted
        call = f"CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        await self._connection.post_api(call, request, self._inbox)


def one_stream(subjects: Sequence[str]) -> str:
    """Return the stream that holds all of ``subjects``; raises ``InvalidInputError`` otherwise."""
    streams = {stream_of(subject) for subject in subjects}
    if len(streams) != 1:
        raise InvalidInputError(
            f"{', '.join(subjects) or 'no subject'} cannot be read together",
            hint="name at least one subject, all of one stream",
        )
    return streams.pop()
