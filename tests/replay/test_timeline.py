"""No event is told before its cause, and nothing is lost in the telling."""

from __future__ import annotations

from collections import Counter

from godwit_protocol.events import Lane
from godwit_protocol.events import migration as ev
from godwit_protocol.replay.timeline import Timeline, timeline
from recorded_logs import simulated, stories_of

BETWEEN_HOSTS = (ev.ImageStaged, ev.GoGiven, ev.ActivationStarted, ev.MachineReleased)


def told() -> list[Timeline]:
    return [timeline(*story) for seed in (3, 25) for story in stories_of(simulated(seed))]


def test_each_event_is_told_once_after_its_cause_and_after_its_lane() -> None:
    for story in told():
        seen: set[str] = set()
        numbers: Counter[tuple[str, ...]] = Counter()
        for recorded, cause, _ in story.moments:
            envelope = recorded.envelope
            lane = envelope.lane, envelope.host, envelope.life
            assert cause is None or cause.envelope.id in seen, (envelope, cause)
            assert envelope.lane_sequence == numbers[lane] + 1
            numbers[lane] += 1
            seen.add(envelope.id)
        assert len(seen) == story.summary.events


def test_what_one_host_does_comes_from_what_the_other_said() -> None:
    crossed: Counter[str] = Counter()
    for story in told():
        for recorded, cause, step in story.moments:
            if isinstance(recorded.event, BETWEEN_HOSTS) and cause is not None:
                assert {recorded.envelope.lane, cause.envelope.lane} == {
                    Lane.SOURCE,
                    Lane.DESTINATION,
                }
                crossed[recorded.envelope.type] += 1
            if recorded.envelope.lane is Lane.SOURCE:
                assert step is not None or recorded.envelope.type == ev.HostFenced.TYPE
    assert set(crossed) == {kind.TYPE for kind in BETWEEN_HOSTS}
