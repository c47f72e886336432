"""Because of what an event was written, and an order in which no cause comes later. Pure.

The log's order is that of storing: hosts keep back what they write in the stun. What follows from
what is known from the causation that a writer recorded, from its lane, and, between hosts, from
what each kind of event answers.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Final

from ..events import Event, Recorded
from ..events import machine as mev
from ..events import migration as ev
from ..events import reservation as rev
from ..events.loss import LossOrdered

ANSWERS: Final[Mapping[type[Event], tuple[type[Event], ...]]] = {
    rev.ReservationGranted: (rev.ReservationRequested,),
    rev.ReservationRefused: (rev.ReservationRequested,),
    ev.PreparationOrdered: (rev.ReservationGranted,),
    ev.DestinationPrepared: (ev.PreparationOrdered,),
    ev.PreparationRefused: (ev.PreparationOrdered,),
    ev.MigrationStarted: (ev.StartDecided,),
    ev.PrecopyStarted: (ev.MigrationStarted,),
    ev.ImageStaged: (ev.FinalCopySent,),
    ev.GoGiven: (ev.ImageStaged,),
    ev.ActivationStarted: (ev.GoGiven,),
    ev.MachineReleased: (ev.MachineActivated,),
    ev.ImageQuarantined: (ev.AbortIntended,),
    ev.ImageDiscarded: (ev.MigrationAbandoned, ev.AbortOrdered),
    ev.MigrationEnded: (ev.MachineReleased, ev.MigrationAbandoned, ev.StartDecided),
    ev.RunOrderRefused: (ev.RunOrdered, LossOrdered),
    ev.HostFenced: (ev.RunOrdered, LossOrdered, ev.DoubtRaised),
    mev.MachineFailed: (ev.GoGiven,),
}
"""What one kind of event comes from, where the writer has not recorded it: the last such event of
another lane that stands before it, or, kept back by its host, after it."""

KEPT_BACK: Final = (
    ev.MachineStunned,
    ev.FinalCopySent,
    ev.ImageStaged,
    ev.GoGiven,
    ev.ActivationStarted,
)
"""Events of the stun, which hosts hand to the log later than they write them."""


class Causes:
    """The causes of one migration's events, by their ids."""

    def __init__(self, story: Sequence[Recorded]) -> None:
        self._story = story
        self._by_id = {recorded.envelope.id: recorded for recorded in story}
        self._of: dict[str, Recorded] = {}
        for place, recorded in enumerate(story):
            cause = self._by_id.get(recorded.envelope.causation) or self._answered(place)
            if cause is not None:
                self._of[recorded.envelope.id] = cause

    def of(self, recorded: Recorded) -> Recorded | None:
        """What the event came from; None if nothing in the log tells."""
        return self._of.get(recorded.envelope.id)

    def ordered(self) -> list[Recorded]:
        """The events, each after its cause and those of its lane, else as they were stored."""
        waits, follows = self._edges()
        ready = [recorded.sequence for recorded in self._story if not waits[recorded.sequence]]
        heapq.heapify(ready)
        by_sequence = {recorded.sequence: recorded for recorded in self._story}
        ordered: list[Recorded] = []
        while ready:
            sequence = heapq.heappop(ready)
            ordered.append(by_sequence[sequence])
            for later in follows.get(sequence, ()):
                waits[later] -= 1
                if not waits[later]:
                    heapq.heappush(ready, later)
        return ordered if len(ordered) == len(self._story) else list(self._story)

    def _edges(self) -> tuple[dict[int, int], dict[int, list[int]]]:
        """How many events each waits for, and which wait for each."""
        waits = {recorded.sequence: 0 for recorded in self._story}
        follows: dict[int, list[int]] = {}
        last_of_lane: dict[tuple[str, str, str], int] = {}
        for recorded in self._story:
            envelope = recorded.envelope
            lane = envelope.lane, envelope.host, envelope.life
            cause = self.of(recorded)
            before = {last_of_lane.get(lane), cause.sequence if cause else None}
            last_of_lane[lane] = recorded.sequence
            for earlier in before - {None, recorded.sequence}:
                assert earlier is not None
                follows.setdefault(earlier, []).append(recorded.sequence)
                waits[recorded.sequence] += 1
        return waits, follows

    def _answered(self, place: int) -> Recorded | None:
        """The last event before it that it can be an answer to, or one that was kept back."""
        recorded = self._story[place]
        kinds = ANSWERS.get(type(recorded.event), ())
        for kind in kinds:
            earlier = [each for each in self._story[:place] if isinstance(each.event, kind)]
            later = [each for each in self._story[place:] if isinstance(each.event, kind)]
            if earlier:
                return earlier[-1]
            if later and kind in KEPT_BACK:
                return later[0]
        return None
