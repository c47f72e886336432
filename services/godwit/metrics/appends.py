"""What a service's appends to the log say: how long they took, and the facts that it has written.

An append may be the one inside a stun: what is stored is only put aside, and looked at half a
second later, a few appends at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from godwit.runtime.event_log import AppendConflictError
from godwit_protocol import codec, subjects
from godwit_protocol.errors import GodwitError, InvalidInputError
from godwit_protocol.events import Recorded

from . import definitions as metrics
from .figures import Figures

LEARN_AFTER_S: Final = 0.5
APPENDS_A_TURN: Final = 16
"""How many are looked at in one turn of the event loop: some tenths of a millisecond."""
APPENDS_WAITING_MAX: Final = 10_000
"""As many as an outbox holds. If more wait, the oldest are never counted."""

Learner = Callable[[Recorded], None]
_Append = tuple[str, bytes, float, str]
"""Subject, data, how long it took in seconds, and the id of what it came of."""


class Appends:
    """Observes an ``ObservedLog``. Belongs to one event loop."""

    def __init__(self, figures: Figures, *learners: Learner) -> None:
        """``learners`` get each event that was stored, in the order of storing."""
        self._figures = figures
        self._learners = learners
        self._waiting: deque[_Append] = deque(maxlen=APPENDS_WAITING_MAX)
        self._learning: asyncio.TimerHandle | None = None

    def appended(self, subject: str, data: bytes, seconds: float, cause: str = "") -> None:
        """Put it aside."""
        self._waiting.append((subject, data, seconds, cause))
        if self._learning is None:
            loop = asyncio.get_running_loop()
            self._learning = loop.call_later(LEARN_AFTER_S, self._learn_some)

    def failed(self, subject: str, error: GodwitError) -> None:
        """Count it."""
        is_conflict = isinstance(error, AppendConflictError)
        metric = metrics.APPEND_CONFLICTS if is_conflict else metrics.APPEND_FAILURES
        with contextlib.suppress(InvalidInputError):  # no stream holds the subject
            self._figures.add(metric, subjects.stream_of(subject))

    def learn_rest(self) -> None:
        """Look at once at what waits: the service ends."""
        while self._waiting:
            self._learn_next()

    def _learn_some(self) -> None:
        self._learning = None
        for _ in range(min(APPENDS_A_TURN, len(self._waiting))):
            self._learn_next()
        if self._waiting:
            self._learning = asyncio.get_running_loop().call_later(0, self._learn_some)

    def _learn_next(self) -> None:
        subject, data, seconds, cause = self._waiting.popleft()
        stream = subjects.stream_of(subject)
        self._figures.observe(metrics.APPEND_SECONDS, seconds, stream)
        if stream == subjects.EVENTS:
            recorded = codec.decode(data)
            if cause and not recorded.envelope.causation:
                recorded = _caused_by(recorded, cause)
            for learn in self._learners:
                learn(recorded)


def _caused_by(recorded: Recorded, cause: str) -> Recorded:
    envelope = msgspec.structs.replace(recorded.envelope, causation=cause)
    return msgspec.structs.replace(recorded, envelope=envelope)
