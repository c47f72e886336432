"""What a service's appends to the log say: how long they took, and the facts that it has written.

An append may be the one inside a stun, so a fact is only put aside when it is stored, and learned
half a second later, a few at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Final

from godwit.runtime.event_log import AppendConflictError
from godwit_protocol import codec, subjects
from godwit_protocol.errors import GodwitError, InvalidInputError
from godwit_protocol.events import Recorded

from . import definitions as metrics
from .figures import Figures

LEARN_AFTER_S: Final = 0.5
FACTS_A_TURN: Final = 16
"""How many are learned in one turn of the event loop: some tenths of a millisecond."""
FACTS_WAITING_MAX: Final = 10_000
"""As many as an outbox holds. If more wait, the oldest are never learned."""

Learner = Callable[[Recorded], None]


class Appends:
    """Observes an ``ObservedLog``. Belongs to one event loop."""

    def __init__(self, figures: Figures, *learners: Learner) -> None:
        """``learners`` get each event that was stored, in the order of storing."""
        self._figures = figures
        self._learners = learners
        self._waiting: deque[bytes] = deque(maxlen=FACTS_WAITING_MAX)
        self._learning: asyncio.TimerHandle | None = None

    def appended(self, subject: str, data: bytes, seconds: float) -> None:
        """Count it, and put an event aside."""
        stream = subjects.stream_of(subject)
        self._figures.observe(metrics.APPEND_SECONDS, seconds, stream)
        if stream == subjects.EVENTS:
            self._waiting.append(data)
            if self._learning is None:
                self._learn_later()

    def failed(self, subject: str, error: GodwitError) -> None:
        """Count it."""
        is_conflict = isinstance(error, AppendConflictError)
        metric = metrics.APPEND_CONFLICTS if is_conflict else metrics.APPEND_FAILURES
        with contextlib.suppress(InvalidInputError):  # no stream holds the subject
            self._figures.add(metric, subjects.stream_of(subject))

    def learn_rest(self) -> None:
        """Learn at once what waits: the service ends."""
        while self._waiting:
            self._learn_next()

    def _learn_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._learning = loop.call_later(LEARN_AFTER_S, self._learn_some)

    def _learn_some(self) -> None:
        self._learning = None
        for _ in range(min(FACTS_A_TURN, len(self._waiting))):
            self._learn_next()
        if self._waiting:
            self._learning = asyncio.get_running_loop().call_later(0, self._learn_some)

    def _learn_next(self) -> None:
        recorded = codec.decode(self._waiting.popleft())
        for learn in self._learners:
            learn(recorded)
