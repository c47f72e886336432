"""Where a coordinator may begin to read: after what nobody has anything to do with any more."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit_protocol import beginning, subjects
from godwit_protocol.beginning import DONE_WITH_NS, Beginning, Followed, Place
from godwit_protocol.errors import CorruptError
from godwit_protocol.events import CHAIN_START, Envelope, Event, Lane, Recorded
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import Limits, Outcome

STEP_NS = DONE_WITH_NS // 10
REQUESTED = ev.MigrationRequested(machine="m", destination="h", limits=Limits())
ENDED = ev.MigrationEnded(outcome=Outcome.COMPLETED)
LANES = {"migration_requested": Lane.OPERATOR, "migration_ended": Lane.COORDINATOR}

Told = tuple[str, Event]


class Log:
    """Events that come one after the other, ten in the time after which one is done with."""

    def __init__(self, *told: Told) -> None:
        self.told = told

    def give(self, followed: Followed, after: int = 0) -> Followed:
        for sequence, (migration, event) in enumerate(self.told, start=1):
            if sequence > after:
                lane = LANES[event.TYPE]
                subject = subjects.migration(migration, lane, event.TYPE)
                followed.learn(subject, recorded(migration, event, sequence), sequence * STEP_NS)
        return followed

    @property
    def now_ns(self) -> int:
        return len(self.told) * STEP_NS

    def open_or_ended_lately(self) -> set[str]:
        ended = {
            migration: sequence * STEP_NS
            for sequence, (migration, event) in enumerate(self.told, start=1)
            if event is ENDED
        }
        since_ns = self.now_ns - DONE_WITH_NS
        return {
            migration for migration, _ in self.told if ended.get(migration, since_ns + 1) > since_ns
        }


def recorded(migration: str, event: Event, sequence: int) -> Recorded:
    return Recorded(
        envelope=Envelope(
            id=str(sequence),
            type=event.TYPE,
            migration=migration,
            lane=LANES[event.TYPE],
            lane_sequence=1,
            host="h",
            wall_ns=0,
            monotonic_ns=0,
            boot="b",
            prev_hash=CHAIN_START,
            body=msgspec.Raw(),
        ),
        event=event,
        sequence=sequence,
    )


def a_move(migration: str) -> tuple[Told, Told]:
    return (migration, REQUESTED), (migration, ENDED)


def test_reading_begins_at_the_oldest_that_is_not_done_with() -> None:
    log = Log(*a_move("old"), *a_move("older"), ("open", REQUESTED), *a_move("new"))
    followed = log.give(Followed())
    assert followed.beginning(log.now_ns) is None, "a day has not passed since any of them ended"
    found = followed.beginning(log.now_ns + DONE_WITH_NS)
    assert found is not None
    assert found.request == Place(migration="open", sequence=5)
    assert found.end == Place(migration="older", sequence=4)
    assert found.after_sequence == 4
    assert found.standing == {
        "godwit.v1.migration.open.operator.migration_requested": 5,
        "godwit.v1.migration.older.coordinator.migration_ended": 4,
    }
    assert beginning.decode(beginning.encode(found)) == found


def test_the_end_is_the_last_of_those_that_are_left_out() -> None:
    log = Log(("long", REQUESTED), *a_move("short"), ("long", ENDED), ("open", REQUESTED))
    found = log.give(Followed()).beginning(log.now_ns + DONE_WITH_NS)
    assert found is not None
    assert (found.request.migration, found.end) == ("open", Place(migration="long", sequence=4))


def test_the_end_is_handed_on_from_one_to_the_next() -> None:
    """The second coordinator never sees that end: it stands before what it reads."""
    log = Log(
        ("long", REQUESTED), ("brief", REQUESTED), ("brief", ENDED), ("long", ENDED), *a_move("new")
    )
    begun = Beginning(
        request=Place(migration="brief", sequence=2), end=Place(migration="long", sequence=4)
    )
    second = log.give(Followed(begun), begun.after_sequence)
    found = second.beginning(log.now_ns + DONE_WITH_NS)
    assert found is not None
    assert (found.request.migration, found.end) == ("new", begun.end)


def test_an_end_that_no_coordinator_said_is_none() -> None:
    followed = Followed()
    followed.learn("godwit.v1.migration.a.operator.x", recorded("a", REQUESTED, 1), 0)
    forged = subjects.migration("a", Lane.SOURCE, ENDED.TYPE)
    followed.learn(forged, recorded("a", ENDED, 2), 0)
    followed.learn("godwit.v1.migration.b.operator.x", recorded("b", REQUESTED, 3), 0)
    assert followed.beginning(2 * DONE_WITH_NS) is None


def test_a_long_history_is_not_kept_and_too_many_open_ones_have_no_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(beginning, "FOLLOWED_MAX", 20)
    log = Log(*(told for number in range(100) for told in a_move(f"m{number}")))
    assert log.give(Followed()).beginning(log.now_ns) is not None
    crowd = Log(*a_move("first"), *((f"m{number}", REQUESTED) for number in range(21)))
    assert crowd.give(Followed()).beginning(crowd.now_ns + DONE_WITH_NS) is None


@given(st.lists(st.integers(0, 29), max_size=120), st.lists(st.integers(0, 60), max_size=3))
def test_what_is_open_or_ended_lately_is_always_read_also_by_the_next_of_the_next(
    drawn: list[int], stops: list[int]
) -> None:
    """Each number asks for that migration, or ends it if it was asked for. Coordinators begin, one
    after the other, where the one before has said.
    """
    told: list[Told] = []
    for number in drawn:
        migration = f"m{number}"
        seen = [event for name, event in told if name == migration]
        if len(seen) < 2:
            told.append((migration, ENDED if seen else REQUESTED))
    begun: Beginning | None = None
    for stop in (*sorted(stops), len(told)):
        log = Log(*told[:stop])
        after = 0 if begun is None else begun.after_sequence
        requests = {name: at for at, (name, event) in enumerate(log.told, 1) if event is REQUESTED}
        assert all(requests[name] > after for name in log.open_or_ended_lately())
        begun = log.give(Followed(begun), after).beginning(log.now_ns) or begun
        if begun is not None:
            assert log.told[begun.request.sequence - 1] == (begun.request.migration, REQUESTED)
            assert log.told[begun.end.sequence - 1] == (begun.end.migration, ENDED)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        bytes(5000),
        beginning.encode(
            Beginning(
                request=Place(migration="a", sequence=0), end=Place(migration="b", sequence=1)
            )
        ),
    ],
)
def test_what_is_no_beginning_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptError):
        beginning.decode(data)
