"""The pace of migrations that leave a host: each its own cap, and all together the link's.

Threads that send wait here for their turn. What a migration is, when its cap changes, and how a
link is shared (``godwit_protocol.pacing``) is not known here.
"""

from __future__ import annotations

import threading
import time
from typing import Final, NamedTuple, Protocol

from godwit_protocol.pacing import Link, Share

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


class SharedLink:
    """A host's way out. Migrations that send at the same time share it fairly (max-min), and lend
    each other what they do not use.
    """

    def __init__(self, bytes_per_second: int = 0, clock: Clock | None = None) -> None:
        """``bytes_per_second``: for all together; 0: as much as the link carries."""
        self.clock = clock or MonotonicClock()
        self.link = Link(bytes_per_second, self.clock.now_ns())
        self.changed = threading.Condition()
        """Held by whoever looks at the link; told of whatever lets a waiting thread go on."""

    def pace(self, cap: int) -> Pace:
        """A pace of ``cap`` bytes a second at most (0: any), which takes no share yet."""
        return Pace(self, cap)


class Pace:
    """One migration's. ``outgoing.Pacer``; all may be called by any thread."""

    def __init__(self, shared: SharedLink, cap: int) -> None:
        """Use ``SharedLink.pace``."""
        self._share = Share(cap)
        self._link = shared.link
        self._clock = shared.clock
        self._changed = shared.changed
        self._lifted = False
        self._paced_ns = 0

    @property
    def bytes_per_second(self) -> int:
        """What may be sent now; 0: as much as the link carries."""
        with self._changed:
            return self._allowed()

    def join(self) -> None:
        """Begin to send, and share the link with others until ``lift``; not if that was before."""
        with self._changed:
            if not self._lifted:
                self._link.join(self._share, self._clock.now_ns())

    def take(self, byte_count: int) -> None:
        """Return when ``byte_count`` more bytes may go out, or when the pace was lifted. It has
        joined.
        """
        with self._changed:
            began_ns = now_ns = self._clock.now_ns()
            while not self._lifted:
                lacking_ns = self._link.take(self._share, byte_count, now_ns)
                if not lacking_ns:
                    break
                self._clock.wait(self._changed, min(lacking_ns / 1e9, WAIT_S_MAX))
                now_ns = self._clock.now_ns()
            self._paced_ns += now_ns - began_ns

    def set_cap(self, cap: int) -> None:
        """Allow so many bytes a second, 0: any, at once: also to what waits now."""
        with self._changed:
            self._link.set_cap(self._share, cap, self._clock.now_ns())
            self._changed.notify_all()

    def lift(self) -> None:
        """Hold nothing back any more, for good, and leave the link to the others. Idempotent."""
        with self._changed:
            self._lifted = True
            self._link.leave(self._share, self._clock.now_ns())
            self._changed.notify_all()

    def held(self) -> Held:
        """What it did since this was last asked."""
        with self._changed:
            told = Held(self._share.least, self._paced_ns)
            self._share.least, self._paced_ns = self._allowed(), 0
            return told

    def _allowed(self) -> int:
        return 0 if self._lifted else self._link.allowed(self._share)
