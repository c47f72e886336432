"""The pace of migrations that leave a host: each its own cap, and all together the link's.

Threads that send wait here for their turn. What a migration is, and when its cap changes, is not
known here.
"""

from __future__ import annotations

import threading
import time
from typing import Final, NamedTuple, Protocol

from godwit_protocol.pacing import TokenBucket, fair_shares

WAIT_S_MAX: Final = 0.5
"""Nobody sleeps for longer without looking again."""


class Clock(Protocol):
    """A clock, and how to wait by it."""

    def now_ns(self) -> int:
        """Nanoseconds since some instant. Never goes back."""

    def wait(self, changed: threading.Condition, seconds: float) -> None:
        """Wait for ``changed``, which is held, and for ``seconds`` at most."""


class MonotonicClock:
    """The machine's own."""

    def now_ns(self) -> int:
        """As ``Clock.now_ns``."""
        return time.monotonic_ns()

    def wait(self, changed: threading.Condition, seconds: float) -> None:
        """As ``Clock.wait``."""
        changed.wait(seconds)


class Held(NamedTuple):
    """What a pace did to the sending since it was last asked."""

    cap_bytes_per_second: int
    """The least that was allowed at any time; 0: never limited."""
    paced_ns: int
    """What threads waited, all together."""


class Pace:
    """One migration's. ``sender.Pacer``; all may be called by any thread."""

    def __init__(self, link: SharedLink, cap: int, clock: Clock) -> None:
        """Use ``SharedLink.pace``."""
        self.cap = cap
        self._link = link
        self._clock = clock
        self._changed = threading.Condition()
        self._bucket = TokenBucket(cap, clock.now_ns())
        self._lifted = False
        self._least = cap
        self._paced_ns = 0

    @property
    def bytes_per_second(self) -> int:
        """What may be sent now; 0: as much as the link carries."""
        return 0 if self._lifted else self._bucket.bytes_per_second

    def join(self) -> None:
        """Begin to send, and share the link with others until ``lift``; not if that was before."""
        if not self._lifted:
            self._link.join(self)
            self.held()

    def take(self, byte_count: int) -> None:
        """Return when ``byte_count`` more bytes may go out, or when the pace was lifted."""
        with self._changed:
            began_ns = now_ns = self._clock.now_ns()
            while not self._lifted and (lacking_ns := self._bucket.take(byte_count, now_ns)):
                self._clock.wait(self._changed, min(lacking_ns / 1e9, WAIT_S_MAX))
                now_ns = self._clock.now_ns()
            self._paced_ns += now_ns - began_ns

    def set_cap(self, cap: int) -> None:
        """Allow so many bytes a second, 0: any, at once: also to what waits now."""
        self.cap = cap
        self._link.share()

    def lift(self) -> None:
        """Hold nothing back any more, for good, and leave the link to the others. Idempotent."""
        with self._changed:
            self._lifted = True
            self._changed.notify_all()
        self._link.leave(self)

    def held(self) -> Held:
        """What it did since this was last asked."""
        with self._changed:
            told = Held(self._least, self._paced_ns)
            self._least, self._paced_ns = self.bytes_per_second, 0
            return told

    def allow(self, bytes_per_second: int) -> None:
        """Take this share of the link; for ``SharedLink``."""
        with self._changed:
            self._bucket.set_rate(bytes_per_second, self._clock.now_ns())
            self._least = _lower(self._least, bytes_per_second)
            self._changed.notify_all()


class SharedLink:
    """A host's way out. Migrations that send at the same time share it fairly (max-min): anew
    whenever one begins, ends, or changes its cap.
    """

    def __init__(self, bytes_per_second: int = 0, clock: Clock | None = None) -> None:
        """``bytes_per_second``: for all together; 0: as much as the link carries."""
        self._bytes_per_second = bytes_per_second
        self._clock = clock or MonotonicClock()
        self._paces: list[Pace] = []
        self._sharing = threading.Lock()

    def pace(self, cap: int) -> Pace:
        """A pace of ``cap`` bytes a second at most (0: any), which takes no share yet."""
        return Pace(self, cap, self._clock)

    def join(self, pace: Pace) -> None:
        """Count a pace in; for ``Pace.join``."""
        with self._sharing:
            self._paces.append(pace)
        self.share()

    def leave(self, pace: Pace) -> None:
        """Count a pace out; for ``Pace.lift``."""
        with self._sharing:
            if pace in self._paces:
                self._paces.remove(pace)
        self.share()

    def share(self) -> None:
        """Give each its share."""
        with self._sharing:
            shares = fair_shares([pace.cap for pace in self._paces], self._bytes_per_second)
            for pace, share in zip(self._paces, shares, strict=True):
                pace.allow(share)


def _lower(one: int, other: int) -> int:
    """The lower of two limits, where 0 is none."""
    return min(one, other) if one and other else one or other
