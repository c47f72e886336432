"""Guest I/O: requests from the log to the guest, replies back, each exactly once.

A thread of its own talks to the log, so that neither the guest's steps nor a stun ever wait for it.
The step loop takes requests and gives replies without waiting. Knows the log, not the guest.

Why nothing is lost or doubled: the cursor (the stream sequence of the last request that the guest
has answered) and the replies whose storing is not certain are part of the checkpoint. Whoever goes
on, here or on another host, takes requests after the cursor, and looks in the log which of those
replies are there before it publishes the others. A reply's message id is made of the sequence of
its request, so that what two publishers send at about the same time is stored once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final

from godwit.runtime.event_log import EventLog
from godwit_protocol import subjects
from godwit_protocol.errors import GodwitError, GuestError, RefusedError, UnreachableError
from godwit_protocol.stored import MESSAGE_ID_HEADER, Stored

from .guest_queues import Inbox, IoState, Outbox, Reply, Request

REQUEST_HEADER: Final = "Godwit-Request"
"""On a reply: the message id of its request."""
REPLY_BYTES_MAX: Final = 1_000_000
"""Below the log server's usual limit of 1 MiB, with room for the headers."""
STATE_BYTES_MAX: Final = 4 * 2**20
"""With a guest's own checkpoint it fits into one message of the direct link."""
REQUEST_ID_BYTES_MAX: Final = 256
PUBLISH_WINDOW: Final = 32
CANCEL_AGAIN_S: Final = 0.05
RETRY_S: Final = 0.2
BACKOFF_S_MIN: Final = 0.05
BACKOFF_S_MAX: Final = 5.0

_log = logging.getLogger(__name__)


class GuestIo:
    """The step loop's side. Only ``begin`` and ``flush`` wait, for as long as they are told."""

    def __init__(self, machine: str, connect: Callable[[], Awaitable[EventLog]]) -> None:
        """``connect`` is called in the thread; it raises ``GodwitError`` when the log is away."""
        self.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Readable when there may be something to take."""
        self._machine = machine
        self._connect = connect
        self._changed = threading.Condition()
        self._inbox: Inbox | None = None
        self._outbox = Outbox()
        self._cursor = 0
        self._held = True
        self._loop = asyncio.new_event_loop()
        self._space = asyncio.Event()
        self._publishable = asyncio.Event()
        self._rewound = asyncio.Event()
        self._staying = self._loop.create_task(self._stay_connected())
        self._thread = threading.Thread(target=self._run_thread, name="guest-io", daemon=True)

    def start(self) -> None:
        """Start the thread: it connects, follows the requests and buffers them."""
        self._thread.start()

    def end(self, timeout_s: float) -> None:
        """Leave the log and end the thread, if it does so in time. A VMM just exits."""
        self._loop.call_soon_threadsafe(self._staying.cancel)
        self._thread.join(timeout_s)

    def begin(self, timeout_s: float) -> None:
        """A machine boots: its requests are those published since its VMM was created.

        Raises ``UnreachableError`` if the log did not answer by then.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._inbox is not None, timeout_s)
            if self._inbox is None:
                raise UnreachableError(
                    f"guest I/O of {self._machine} does not reach the event log",
                    hint="is the NATS server running, and GODWIT_NATS_URL right?",
                )
        self.load(IoState(cursor=self._cursor))

    def load(self, state: IoState) -> None:
        """A machine goes on from ``state``; nothing is published before ``release``."""
        with self._changed:
            self._cursor = state.cursor
            for reply in state.unacknowledged:
                self._outbox.add(reply, fresh=False)
            if self._inbox is None or not self._inbox.advance(state.cursor):
                self._inbox = Inbox(state.cursor, gated=False)
                self._loop.call_soon_threadsafe(self._rewound.set)
            self._inbox.gated = False

    def save(self) -> IoState:
        """Guest I/O's part of the checkpoint, between two steps.

        Raises ``RefusedError`` for more replies than a checkpoint may hold: their guest has just
        answered at far greater length than before, and the log has not taken that yet.
        """
        with self._changed:
            if self._outbox.size_bytes > STATE_BYTES_MAX:
                raise RefusedError(
                    f"replies of {self._outbox.size_bytes} bytes wait for the event log",
                    hint=f"a checkpoint holds {STATE_BYTES_MAX} bytes of them; try again",
                )
            return IoState(self._cursor, self._outbox.unacknowledged())

    def release(self) -> None:
        """The machine runs: publish. Idempotent, and cheap where nothing is held."""
        if not self._held:
            return
        with self._changed:
            self._held = False
        self._loop.call_soon_threadsafe(self._publishable.set)

    def hold(self) -> None:
        """The machine is paused: begin no more publishing. What is under way may still succeed."""
        with self._changed:
            self._held = True

    def drain_wake(self) -> None:
        """Make ``wake_fd`` unreadable until something new comes."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.wake_fd)

    def waiting(self) -> bool:
        """Whether ``take`` would give a request."""
        with self._changed:
            return bool(self._inbox) and self._outbox.room > 0

    def take(self, limit: int) -> list[Request]:
        """Up to ``limit`` requests; none while too many replies wait for the log."""
        with self._changed:
            if self._inbox is None:
                return []
            was_full = self._inbox.full
            count = min(limit, len(self._inbox), self._outbox.room)
            requests = [self._inbox.take() for _ in range(count)]
        if was_full and requests:
            self._loop.call_soon_threadsafe(self._space.set)
        return requests

    def reply(self, requests: Sequence[Request], replies: Sequence[bytes]) -> None:
        """The guest has answered ``requests``: this moves the cursor.

        Raises ``GuestError`` if a reply is too long; nothing has changed then.
        """
        longest = max(map(len, replies), default=0)
        if longest > REPLY_BYTES_MAX:
            raise GuestError(
                f"the guest gave a reply of {longest} bytes",
                hint=f"a reply has at most {REPLY_BYTES_MAX} bytes",
            )
        with self._changed:
            for request, data in zip(requests, replies, strict=True):
                self._outbox.add(Reply(request.sequence, request.id, data))
                self._cursor = request.sequence
        self._loop.call_soon_threadsafe(self._publishable.set)

    def flush(self, timeout_s: float) -> bool:
        """Wait until the log holds all replies. False if it did not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not len(self._outbox), timeout_s)

    def _run_thread(self) -> None:
        asyncio.set_event_loop(self._loop)
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._staying)
        self._loop.close()

    async def _stay_connected(self) -> None:
        # For as long as the process lives: a machine outlasts any failure of the log.
        backoff_s = BACKOFF_S_MIN
        while True:
            began_s = self._loop.time()
            try:
                await self._serve(await self._connect())
            except GodwitError as error:
                _log.warning("guest I/O interrupted: %s", error)
            except Exception:
                # A defect here must not cut the guest off for good.
                _log.exception("guest I/O interrupted")
            lasted = self._loop.time() - began_s > BACKOFF_S_MAX
            backoff_s = BACKOFF_S_MIN if lasted else min(backoff_s * 2, BACKOFF_S_MAX)
            await asyncio.sleep(backoff_s)

    async def _serve(self, log: EventLog) -> None:
        try:
            self._rewound.clear()
            inbox = await self._current_inbox(log)
            await _until_one_ends(
                self._receive(log, inbox), self._publish(log), self._watch_for_rewind()
            )
        finally:
            await log.close()

    async def _current_inbox(self, log: EventLog) -> Inbox:
        """The inbox; at first contact, a gated one that begins where the requests end now."""
        if self._inbox is None:
            last = await log.last(subjects.guest_request(self._machine))
            end = last.sequence if last else 0
            with self._changed:
                if self._inbox is None:
                    self._inbox = Inbox(end, gated=True)
                    self._cursor = end
                self._changed.notify_all()
        with self._changed:
            return self._inbox

    async def _watch_for_rewind(self) -> None:
        await self._rewound.wait()
        raise _RewoundError("the checkpoint goes back before what was buffered")

    async def _receive(self, log: EventLog, inbox: Inbox) -> None:
        subject = subjects.guest_request(self._machine)
        async for stored in log.tail([subject], after_sequence=inbox.end):
            request = Request(stored.sequence, _identity(stored), stored.data)
            while not self._put(inbox, request):
                await self._space.wait()
            os.eventfd_write(self.wake_fd, 1)

    def _put(self, inbox: Inbox, request: Request) -> bool:
        """Whether the request needs no more care: False if it must wait for space."""
        with self._changed:
            self._space.clear()
            if inbox.full and not inbox.gated:
                return False
            if request.sequence > inbox.end:  # a load may have moved the beginning past it
                inbox.add(request)
            return True

    async def _publish(self, log: EventLog) -> None:
        self._publishable.set()
        while True:
            await self._publishable.wait()
            self._publishable.clear()
            while batch := await self._next_batch(log):
                stored = await asyncio.gather(*(self._store(log, reply) for reply in batch))
                if not all(stored):
                    await asyncio.sleep(RETRY_S)

    async def _next_batch(self, log: EventLog) -> list[Reply]:
        """The next replies to publish; empty when there are none, or while held."""
        with self._changed:
            doubtful = [] if self._held else self._outbox.doubtful()
        if doubtful:
            await self._settle(log, doubtful)
        with self._changed:
            return [] if self._held else self._outbox.claim(PUBLISH_WINDOW)

    async def _settle(self, log: EventLog, doubtful: Sequence[Reply]) -> None:
        """Find out which of these replies the log holds; the others become fresh again.

        The log's own deduplication has a window of minutes, and a stun may last longer. Replies are
        in the stream of their requests, so each comes after its own request.
        """
        missing = {self._message_id(reply.sequence): reply.sequence for reply in doubtful}
        subject = subjects.guest_reply(self._machine)
        first = min(missing.values())
        async for stored in log.read([subject], after_sequence=first):
            sequence = missing.pop(stored.headers.get(MESSAGE_ID_HEADER, ""), None)
            if sequence is not None:
                self._acknowledge(sequence)
        with self._changed:
            for sequence in sorted(missing.values(), reverse=True):
                self._outbox.refresh(sequence)

    async def _store(self, log: EventLog, reply: Reply) -> bool:
        try:
            await log.append(
                subjects.guest_reply(self._machine),
                reply.data,
                message_id=self._message_id(reply.sequence),
                headers={REQUEST_HEADER: reply.request_id},
            )
        except GodwitError as error:
            _log.warning("a reply is not stored yet: %s", error)
            return False
        self._acknowledge(reply.sequence)
        return True

    def _acknowledge(self, sequence: int) -> None:
        with self._changed:
            self._outbox.acknowledge(sequence)
            self._changed.notify_all()
        os.eventfd_write(self.wake_fd, 1)

    def _message_id(self, sequence: int) -> str:
        return f"reply-{self._machine}-{sequence}"


def _identity(request: Stored) -> str:
    """What a reply says that it answers: the request's message id, if it is a reasonable one."""
    given = request.headers.get(MESSAGE_ID_HEADER, "")
    is_reasonable = 0 < len(given.encode()) <= REQUEST_ID_BYTES_MAX
    return given if is_reasonable else f"sequence-{request.sequence}"


async def _until_one_ends(*works: Coroutine[Any, Any, None]) -> None:
    """Run all, until one returns or raises, which this then raises; the others are cancelled."""
    tasks = {asyncio.create_task(work) for work in works}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        # Once may not do: in Python 3.11 a ``wait_for`` in the client, when its result comes at
        # the same moment, swallows the cancellation.
        while pending := {task for task in tasks if not task.done()}:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)


class _RewoundError(GodwitError):
    """The tail must begin again, further back."""
