"""What is between a guest and the log: bounded queues of requests and replies. No threads."""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

INBOX_MAX: Final = 1024
INBOX_BYTES_MAX: Final = 16 * 2**20
OUTBOX_MAX: Final = 256
OUTBOX_BYTES_MAX: Final = 2 * 2**20
"""The guest is given no more requests than their replies are likely to have room for."""
_REPLY_BYTES_BESIDE: Final = 32
"""What a reply takes in a checkpoint beside its data and its request's id, at most."""


class Request(msgspec.Struct, frozen=True):
    """One request. ``sequence`` is its place in the stream; ``id`` goes back with the reply."""

    sequence: int
    id: str
    data: bytes


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """One reply, with its request's sequence and id."""

    sequence: int
    request_id: str
    data: bytes

    @property
    def size_bytes(self) -> int:
        """What it takes in a checkpoint, at most."""
        return len(self.data) + len(self.request_id.encode()) + _REPLY_BYTES_BESIDE


class IoState(msgspec.Struct, frozen=True):
    """Guest I/O's part of a checkpoint."""

    cursor: int
    """Sequence of the last request that was answered: the number of the last reply, too."""
    unacknowledged: tuple[Reply, ...] = ()


class Inbox:
    """Requests in order, beginning after the sequence ``after``.

    While ``gated`` nobody takes: it holds the newest and lets go of the oldest, since most of what
    arrives is answered elsewhere.
    """

    def __init__(self, after: int, *, gated: bool) -> None:
        self.after = after
        self.gated = gated
        self._requests: deque[Request] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def end(self) -> int:
        """Sequence of the newest request it has had."""
        return self._requests[-1].sequence if self._requests else self.after

    @property
    def full(self) -> bool:
        """Whether the next request must wait, or, while gated, push out the oldest."""
        return len(self._requests) >= INBOX_MAX or self._bytes >= INBOX_BYTES_MAX

    def add(self, request: Request) -> None:
        """Append one that is newer than ``end``; full only while gated."""
        while self.full:
            assert self.gated, "a request came into a full inbox"
            self.take()
        self._requests.append(request)
        self._bytes += len(request.data)

    def take(self) -> Request:
        """Remove the oldest."""
        request = self._requests.popleft()
        self._bytes -= len(request.data)
        self.after = request.sequence
        return request

    def advance(self, cursor: int) -> bool:
        """Drop all up to ``cursor``. False, unchanged: some that come after it are not here."""
        if cursor < self.after:
            return False
        while self._requests and self._requests[0].sequence <= cursor:
            self.take()
        self.after = cursor
        return True


class Outbox:
    """Replies that the log has not acknowledged: fresh ones, and those that are in doubt."""

    def __init__(self) -> None:
        self._unacknowledged: dict[int, Reply] = {}
        self._fresh: deque[int] = deque()
        self._largest_bytes = 0
        self.size_bytes = 0
        """What ``unacknowledged`` takes in a checkpoint, at most."""

    def __len__(self) -> int:
        return len(self._unacknowledged)

    @property
    def room(self) -> int:
        """How many more requests the guest may be given: their replies are taken to be no larger
        than the largest so far. One that answers at greater length surprises once.
        """
        left_bytes = OUTBOX_BYTES_MAX - self.size_bytes
        if left_bytes <= 0:
            return 0
        left = OUTBOX_MAX - len(self._unacknowledged)
        return min(left, max(left_bytes // max(self._largest_bytes, 1), 1))

    def add(self, reply: Reply, *, fresh: bool = True) -> None:
        """Take a reply; not ``fresh``: perhaps it was published before."""
        self._unacknowledged[reply.sequence] = reply
        self._largest_bytes = max(self._largest_bytes, reply.size_bytes)
        self.size_bytes += reply.size_bytes
        if fresh:
            self._fresh.append(reply.sequence)

    def claim(self, limit: int) -> list[Reply]:
        """Take up to ``limit`` fresh ones to publish: in doubt until they are acknowledged."""
        count = min(limit, len(self._fresh))
        return [self._unacknowledged[self._fresh.popleft()] for _ in range(count)]

    def doubtful(self) -> list[Reply]:
        """Those that are not fresh. Nothing must be under way when this is asked."""
        fresh = set(self._fresh)
        return [reply for key, reply in self._unacknowledged.items() if key not in fresh]

    def refresh(self, sequence: int) -> None:
        """The log does not hold it: publish it again."""
        self._fresh.appendleft(sequence)

    def acknowledge(self, sequence: int) -> None:
        """The log holds it. Idempotent."""
        reply = self._unacknowledged.pop(sequence, None)
        self.size_bytes -= reply.size_bytes if reply else 0

    def unacknowledged(self) -> tuple[Reply, ...]:
        """All, in the order of their requests."""
        return tuple(self._unacknowledged.values())
