"""In which order a migration's events are told."""

from __future__ import annotations

import msgspec

from godwit_protocol.events import Envelope, Lane, Recorded
from godwit_protocol.events import migration as ev
from godwit_protocol.replay.causes import Causes


def told(place: int, lane: Lane, host: str, *, life: str = "", causation: str = "") -> Recorded:
    """An event that the log stored at ``place``, and that came from another."""
    event = ev.DoubtRaised(message="made up")
    envelope = Envelope(
        id=f"event-{place}",
        type=event.TYPE,
        lane=lane,
        lane_sequence=1,
        host=host,
        causation=causation,
        wall_ns=0,
        monotonic_ns=0,
        boot="",
        life=life,
        prev_hash=b"",
        body=msgspec.Raw(b"\x80"),
    )
    return Recorded(envelope, event, place)


def test_what_a_killed_life_had_on_its_way_does_not_wait_for_the_next_life() -> None:
    """It was stored after it; what the next one wrote may have come of it all the same."""
    later = told(1, Lane.COORDINATOR, "c", life="second", causation="event-3")
    killed = told(2, Lane.COORDINATOR, "c", life="first")
    between = told(3, Lane.SOURCE, "host-1", causation="event-2")
    ordered = Causes([later, killed, between]).ordered()
    assert [each.sequence for each in ordered] == [2, 3, 1]
