"""Whose signatures a coordinator waits for before it signs last, and whether it has done so. Pure.

What was asked of a host or a tracker makes it one that will sign, before it has said anything. Who
has no key never does: whoever waits needs a deadline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..estimation import record
from ..events import Lane, Recorded
from ..events import estimate as eev
from ..events import migration as ev
from ..events import reservation as rev
from ..events.signed import LaneSigned
from ..projections import MigrationSummary, fold

ANY: Final = ""
"""Whichever tracker it is that answers."""
_HOSTS: Final = (Lane.SOURCE, Lane.DESTINATION)
_LAST_WORDS: Final = (
    rev.ReservationRefused,
    rev.ReservationConfirmed,
    rev.ReservationReleased,
    rev.ReservationExpired,
    eev.EstimateCompared,
)
"""Of a tracker: what it signs. One that has granted leaves the rest to any other."""


def has_ended(story: Sequence[Recorded]) -> bool:
    """Whether the migration's end stands among its events."""
    return any(isinstance(recorded.event, ev.MigrationEnded) for recorded in story)


def is_signed_last(story: Sequence[Recorded]) -> bool:
    """Whether a coordinator has signed the order of all events that stand before its signature, and
    nothing stands after it.
    """
    if not story:
        return False
    lane, event = story[-1].envelope.lane, story[-1].event
    if lane is not Lane.COORDINATOR or not isinstance(event, LaneSigned):
        return False
    return event.seen_events == len(story) - 1


def awaited(story: Sequence[Recorded]) -> frozenset[tuple[Lane, str]]:
    """The lanes whose signature is still to come, with their writers (``ANY``: any of them)."""
    unsigned: set[tuple[Lane, str]] = set()
    for recorded in story:
        envelope, event = recorded.envelope, recorded.event
        own = envelope.lane, envelope.host
        match event:
            case LaneSigned():
                unsigned.discard(own)
            case rev.ReservationRequested():
                unsigned.add((Lane.TRACKER, ANY))
            case ev.PreparationOrdered():
                unsigned.add((Lane.DESTINATION, event.destination))
            case ev.MigrationStarted():
                unsigned.add((Lane.SOURCE, event.source))
            case _ if isinstance(event, _LAST_WORDS):
                unsigned.discard((Lane.TRACKER, ANY))
                unsigned.add(own)
            case _ if envelope.lane in _HOSTS:
                unsigned.add(own)
            case _:
                pass
    if _will_be_compared(story):
        unsigned.add((Lane.TRACKER, ANY))
    return frozenset(unsigned)


def _will_be_compared(story: Sequence[Recorded]) -> bool:
    """Whether a tracker has still to write what came of the estimate."""
    summary, estimate = MigrationSummary(id=""), None
    for recorded in story:
        summary = fold(summary, recorded)
        match recorded.event:
            case eev.EstimateMade() as event:
                estimate = event.estimate
            case eev.EstimateCompared():
                return False
            case _:
                pass
    if estimate is None or not record.is_whole(summary):
        return False
    return record.compared(summary, estimate) is not None
