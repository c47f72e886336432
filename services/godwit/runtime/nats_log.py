"""The NATS adapter of the event log port: the only module that imports nats.

Theory of operation. Everything is request and reply on the JetStream API, one deadline a call. A
request is sent only while connected: the client would otherwise keep it and send it much later. An
append is repeated within its deadline under the same message id; whether an unclear one was stored
is decided by what stands in the log, never by guessing.

Reading is in ``pull_reader``, the shapes of requests and replies in ``jetstream_api``.

It must not know what a message means.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Self

import msgspec
import structlog

from godwit.runtime import jetstream_api as api
from godwit.runtime import websockets
from godwit.runtime.cancellation import cancellable
from godwit.runtime.event_log import AppendConflictError, LogFullError
from godwit.runtime.pull_reader import PullReader
from godwit.runtime.values import server_urls, without_credentials
from godwit_protocol.errors import (
    GodwitError,
    InvalidInputError,
    RemoteProtocolError,
    UnreachableError,
)
from godwit_protocol.stored import EXPECTED_SEQUENCE_HEADER, MESSAGE_ID_HEADER, Stored
from godwit_protocol.subjects import stream_of

with websockets.left_out():
    import nats.errors
    from nats.aio import transport
    from nats.aio.client import Client
    from nats.aio.msg import Msg

CONNECT_S_MAX: Final = 5.0
RECONNECT_WAIT_S: Final = 0.1
CLOSE_S_MAX: Final = 3.0
PING_INTERVAL_S: Final = 5
FIRST_ATTEMPT_S: Final = 0.5
"""How long the first try of a request waits before it is repeated; each next one twice as long."""
RETRY_WAIT_S: Final = 0.05

LISTEN_MESSAGES_MAX: Final = 1024

_API: Final = "$JS.API"
_log: Final = structlog.get_logger(__name__)


class LogRequestError(GodwitError):
    """The server refused a request of ours; ``error`` is what it said."""

    def __init__(self, what: str, error: api.ApiError) -> None:
        super().__init__(f"{what}: {error.description} (error {error.err_code})")
        self.error = error


class _Client(Client):
    """Reads headers in a fraction of the time: they were a third of what reading took."""

    _parse_header_lines = staticmethod(api.header_fields)


class NatsLog:
    """One connection to the event log. Implements ``godwit.runtime.event_log.EventLog``.

    It reconnects for ever; ``closed`` returns if the connection is nevertheless lost for good.
    """

    def __init__(self) -> None:
        self._client = _Client()
        self._connected = asyncio.Event()
        self._closed = asyncio.Event()
        self._closing = False
        self._last_error = ""
        self._loop = asyncio.get_running_loop()
        self._readers: set[PullReader] = set()
        self._listeners: set[asyncio.Event] = set()

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        name: str,
        timeout_s: float = CONNECT_S_MAX,
        inbox_prefix: str = "_INBOX",
    ) -> Self:
        """Connect to the server at ``url`` (several, with commas between, are one cluster).

        ``name`` shows in the server's list of clients; answers come under ``inbox_prefix``.

        Raises ``UnreachableError`` if it does not answer within ``timeout_s``, and
        ``InvalidInputError`` if ``url`` is none.
        """
        try:
            servers = server_urls(url)
        except ValueError:  # whose words may hold a part of the password
            shown = without_credentials(url)
            raise InvalidInputError(f"{shown!r} is not the URL of a NATS server") from None
        websockets.put_into(transport, if_needed_for=servers)
        log = cls()
        try:
            async with asyncio.timeout(timeout_s):
                await log._open(servers, name, inbox_prefix)
        except (TimeoutError, OSError, nats.errors.Error) as error:
            await log.close()
            raise UnreachableError(
                f"the event log at {without_credentials(url)} does not answer",
                hint="is the NATS server running, and GODWIT_NATS_URL right?",
            ) from error
        except BaseException:
            await log.close()
            raise
        return log

    async def closed(self) -> None:
        """Wait until the connection is closed for good, by ``close`` or by the server."""
        await self._closed.wait()

    @property
    def is_connected(self) -> bool:
        """Whether the server can be asked right now."""
        return bool(self._client.is_connected)

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
        sent = {**(headers or {}), MESSAGE_ID_HEADER: message_id}
        if expected_last_sequence is not None:
            sent[EXPECTED_SEQUENCE_HEADER] = str(expected_last_sequence)
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        stream_of(subject)
        self._check_size(subject, data, sent)
        reply = await self._ask(subject, data, api.PublishReply, sent, timeout_s)
        if reply.error is None:
            return reply.seq
        if reply.error.err_code in api.CONFLICT_CODES and expected_last_sequence is not None:
            left_s = deadline_s - asyncio.get_running_loop().time()
            return await self._settle_conflict(subject, message_id, expected_last_sequence, left_s)
        raise _append_error(subject, reply.error)

    async def last(self, subject: str, *, timeout_s: float = 5.0) -> Stored | None:
        """As ``EventLog.last``."""
        return await self._stored_message(subject, {"last_by_subj": subject}, timeout_s)

    def read(self, subjects: Sequence[str], *, after_sequence: int = 0) -> AsyncIterator[Stored]:
        """As ``EventLog.read``; "the call" is the first step of the iteration."""
        return self._stored_messages(subjects, after_sequence, history_only=True)

    def tail(self, subjects: Sequence[str], *, after_sequence: int = 0) -> AsyncIterator[Stored]:
        """As ``EventLog.tail``. Raises ``UnreachableError`` once the connection is closed."""
        return self._stored_messages(subjects, after_sequence, history_only=False)

    async def announce(self, subject: str, data: bytes) -> None:
        """As ``EventLog.announce``. Dropped while disconnected."""
        if self.is_connected:
            with contextlib.suppress(nats.errors.Error), cancellable():
                await self._client.publish(subject, data)

    async def listen(self, subjects: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        """As ``EventLog.listen``: holds ``LISTEN_MESSAGES_MAX``, then drops the oldest."""
        recent: deque[tuple[str, bytes]] = deque(maxlen=LISTEN_MESSAGES_MAX)
        arrived = asyncio.Event()

        def keep(message: Msg) -> None:
            recent.append((message.subject, message.data))
            arrived.set()

        async with contextlib.AsyncExitStack() as subscriptions:
            for subject in subjects:
                subscriptions.push_async_callback(await self.subscribe(subject, keep))
            self._listeners.add(arrived)
            subscriptions.callback(self._listeners.discard, arrived)
            while not self._closed.is_set():
                await arrived.wait()
                arrived.clear()
                while recent:
                    yield recent.popleft()
        raise _closed_error()

    async def ensure_stream(
        self, rules: api.StreamRules, *, timeout_s: float = 10.0
    ) -> dict[str, Any]:
        """Create the stream if there is none of its name; never change one. Idempotent.

        Returns the configuration that the server really has. Raises ``LogRequestError``,
        ``UnreachableError``.
        """
        reply = await self._stream_info(rules.name, timeout_s)
        if _has_no_stream(reply):
            create = f"STREAM.CREATE.{rules.name}"
            made = await self.ask_api(create, rules.configuration(), api.StreamReply, timeout_s)
            if made.error is not None and made.error.err_code != api.STREAM_IN_USE_CODE:
                raise LogRequestError(f"stream {rules.name}", made.error)
            reply = await self._stream_info(rules.name, timeout_s)
        if reply.error is not None:
            raise LogRequestError(f"stream {rules.name}", reply.error)
        return reply.config

    async def close(self) -> None:
        """As ``EventLog.close``."""
        self._closing = True
        with contextlib.suppress(TimeoutError, OSError, nats.errors.Error):
            async with asyncio.timeout(CLOSE_S_MAX):
                if self.is_connected:
                    with cancellable():
                        await self._client.flush()
        with contextlib.suppress(TimeoutError, OSError, nats.errors.Error):
            async with asyncio.timeout(CLOSE_S_MAX):
                with cancellable():
                    await self._client.close()
        self._end()

    async def ask_api(
        self, call: str, request: dict[str, Any], shape: type[api.ReplyT], timeout_s: float
    ) -> api.ReplyT:
        """Ask the JetStream API; the reply may hold the server's refusal."""
        return await self._ask(f"{_API}.{call}", json.dumps(request).encode(), shape, {}, timeout_s)

    async def post_api(self, call: str, request: dict[str, Any], reply_to: str) -> None:
        """Send a request to the JetStream API without waiting. Lost while disconnected."""
        if self.is_connected:
            data = json.dumps(request).encode()
            with contextlib.suppress(nats.errors.Error), cancellable():
                await self._client.publish(f"{_API}.{call}", data, reply=reply_to)

    async def subscribe_inbox(
        self, keep: Callable[[Msg], None]
    ) -> tuple[str, Callable[[], Awaitable[None]]]:
        """Return a fresh subject whose messages go to ``keep``, and how to end that."""
        inbox = self._client.new_inbox()
        return inbox, await self.subscribe(inbox, keep)

    async def subscribe(
        self, subject: str, keep: Callable[[Msg], None]
    ) -> Callable[[], Awaitable[None]]:
        """Give what comes on ``subject`` to ``keep``; return how to end that."""

        async def deliver(message: Msg) -> None:
            keep(message)

        self._check_loop()
        try:
            with cancellable():
                subscription = await self._client.subscribe(subject, cb=deliver)
        except nats.errors.ConnectionClosedError as error:
            raise _closed_error() from error

        async def end() -> None:
            with contextlib.suppress(nats.errors.Error), cancellable():
                await subscription.unsubscribe()

        return end

    async def _stored_messages(
        self, subjects: Sequence[str], after_sequence: int, *, history_only: bool
    ) -> AsyncIterator[Stored]:
        reader = PullReader(self, subjects, after_sequence, history_only=history_only)
        self._readers.add(reader)
        try:
            while some := await reader.some():
                for stored in some:
                    yield stored
        finally:
            self._readers.discard(reader)
            await reader.close()

    async def _open(self, servers: list[str], name: str, inbox_prefix: str) -> None:
        await self._client.connect(
            servers,
            name=name,
            inbox_prefix=inbox_prefix,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_reconnected,
            closed_cb=self._on_closed,
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]  # any number will do
            ping_interval=PING_INTERVAL_S,
        )
        self._connected.set()

    async def _ask(
        self,
        subject: str,
        data: bytes,
        shape: type[api.ReplyT],
        headers: dict[str, str],
        timeout_s: float,
    ) -> api.ReplyT:
        """Send until there is an answer: every request of ours may be repeated."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        attempt_s = FIRST_ATTEMPT_S
        while (left_s := deadline_s - loop.time()) > 0:
            reply = await self._try(subject, data, shape, headers, min(left_s, attempt_s))
            if reply is not None:
                return reply
            attempt_s *= 2
        raise api.LogSilentError(
            f"the event log did not answer on {subject} within {timeout_s:g} s",
            hint="what was asked may or may not have happened",
        )

    async def _try(
        self,
        subject: str,
        data: bytes,
        shape: type[api.ReplyT],
        headers: dict[str, str],
        attempt_s: float,
    ) -> api.ReplyT | None:
        """One attempt. None: no usable answer, and it is worth another one."""
        self._check_loop()
        if self._closed.is_set():
            raise _closed_error()
        try:
            async with asyncio.timeout(attempt_s):
                await self._connected.wait()
                with cancellable():
                    answer = await self._client.request(
                        subject, data, timeout=attempt_s, headers=headers or None
                    )
        except nats.errors.BadSubjectError as error:
            raise InvalidInputError(f"subject {subject!r} is not usable") from error
        except nats.errors.NoRespondersError:
            with contextlib.suppress(api.LogSilentError):  # then it is worth another attempt
                await self._check_stream_exists(subject, attempt_s)
        except (TimeoutError, nats.errors.Error) as error:
            _log.debug("log request unanswered", subject=subject, error=repr(error))
        else:
            reply = _decoded(answer.data, shape)
            if reply.error is None or not _worth_a_retry(reply.error):
                return reply
        await asyncio.sleep(min(RETRY_WAIT_S, attempt_s))
        return None

    async def _check_stream_exists(self, subject: str, timeout_s: float) -> None:
        """Nobody listens on ``subject``: tell a stream that is not there from one that starts."""
        if subject.startswith(_API):
            return
        stream = stream_of(subject)
        if _has_no_stream(await self._stream_info(stream, timeout_s)):
            raise _no_stream(stream)

    async def _stream_info(self, stream: str, timeout_s: float) -> api.StreamReply:
        return await self.ask_api(f"STREAM.INFO.{stream}", {}, api.StreamReply, timeout_s)

    def _check_loop(self) -> None:
        """On another loop the client's own tasks do not run: all would be silence, not an error."""
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("a NatsLog works on the event loop that connected it alone")

    def _check_size(self, subject: str, data: bytes, headers: Mapping[str, str]) -> None:
        """Refuse here what would make the server end the connection."""
        size = len(data) + api.header_bytes(headers)
        if size > self._client.max_payload:
            raise InvalidInputError(
                f"a message of {size} bytes for {subject} is too large",
                hint=f"the event log takes {self._client.max_payload} bytes with headers",
            )

    async def _settle_conflict(
        self, subject: str, message_id: str, expected: int, timeout_s: float
    ) -> int:
        """Find out who came first: another writer, or an earlier attempt of this very append.

        If ours was stored, it is the first message of the subject after the expected one, whatever
        has been stored on top of it since.
        """
        question = {"seq": expected + 1, "next_by_subj": subject}
        first = await self._stored_message(subject, question, timeout_s)
        if first is not None and first.headers.get(MESSAGE_ID_HEADER) == message_id:
            return first.sequence
        found = "a lower one" if first is None else f"a message at {first.sequence}"
        raise AppendConflictError(f"{subject} was expected to end at {expected}, but has {found}")

    async def _stored_message(
        self, subject: str, question: dict[str, Any], timeout_s: float
    ) -> Stored | None:
        stream = stream_of(subject)
        reply = await self.ask_api(
            f"STREAM.MSG.GET.{stream}", question, api.MessageReply, timeout_s
        )
        if reply.message is not None:
            return _stored(reply.message)
        if _has_no_stream(reply):
            raise _no_stream(stream)
        if reply.error is not None and reply.error.err_code != api.NO_MESSAGE_CODE:
            raise LogRequestError(f"last message of {subject}", reply.error)
        return None

    async def _on_error(self, error: Exception) -> None:
        """The client tries again by itself; say each trouble once, not ten times a second."""
        again = repr(error) == self._last_error
        self._last_error = repr(error)
        (_log.debug if again else _log.warning)("event log connection error", error=repr(error))

    async def _on_disconnected(self) -> None:
        self._connected.clear()
        if not self._closing:
            _log.warning("event log disconnected")

    async def _on_reconnected(self) -> None:
        self._last_error = ""
        self._connected.set()
        _log.info("event log reconnected")
        for reader in self._readers:
            reader.expire()

    async def _on_closed(self) -> None:
        if not self._closing:
            _log.error("event log connection closed for good", error=repr(self._client.last_error))
        self._end()

    def _end(self) -> None:
        self._closed.set()
        self._connected.clear()
        for arrived in self._listeners:
            arrived.set()
        for reader in self._readers:
            reader.expire()


def _stored(message: api.RawMessage) -> Stored:
    return Stored(
        message.subject,
        message.seq,
        api.raw_time_ns(message),
        api.raw_data(message),
        api.raw_headers(message),
    )


def _decoded(data: bytes, shape: type[api.ReplyT]) -> api.ReplyT:
    try:
        return msgspec.json.decode(data, type=shape)
    except msgspec.DecodeError as error:
        raise RemoteProtocolError(f"the NATS server's answer has no known form: {error}") from error


def _worth_a_retry(error: api.ApiError) -> bool:
    if error.err_code == api.IN_PROCESS_CODE:
        return True
    return error.code == api.UNAVAILABLE and error.err_code not in api.FULL_CODES


def _has_no_stream(reply: api.Reply) -> bool:
    return reply.error is not None and reply.error.err_code == api.NO_STREAM_CODE


def _append_error(subject: str, error: api.ApiError) -> GodwitError:
    if error.err_code in api.FULL_CODES:
        return LogFullError(
            f"the event log has no room for {subject}: {error.description}",
            hint="look at the stream's limits and the server's free disk space",
        )
    return InvalidInputError(
        f"the event log does not take a message for {subject}:"
        f" {error.description} (error {error.err_code})"
    )


def _closed_error() -> UnreachableError:
    return UnreachableError("the connection to the event log is closed")


def _no_stream(stream: str) -> InvalidInputError:
    return InvalidInputError(
        f"the event log has no stream {stream}", hint="run python -m godwit.runtime.provision"
    )
