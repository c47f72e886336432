"""The board: what the events say, however they were heard; and a time to go that only shrinks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.pictures import board as boards
from godwit.pictures.board import Board, Phase, Progress, matching, progress_subject, told_progress
from godwit.pictures.countdown import Countdown
from godwit.runtime.watching_log import Turn, turn_of
from godwit_protocol import codec
from godwit_protocol.events import Recorded
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import Outcome
from made_up_moves import SECOND_NS, START_NS, migration_id, move, told
from recorded_logs import in_file

LOGS = Path(__file__).parents[1] / "golden" / "logs"
SECONDS = st.integers(0, 10**5).map(lambda each: each * 10**6)


def board_of(events: Sequence[Recorded]) -> Board:
    board = Board()
    for recorded in events:
        board.learn(recorded)
    return board


def heard_live(history: Sequence[Recorded], draw: random.Random) -> list[Recorded]:
    """The history as a watcher gets it who hears it lost, doubled and swapped."""
    places = list(range(1, len(history) + 1))
    heard = [place for place in places for _ in range(draw.choice((0, 1, 1, 2)))]
    for at in range(len(heard) - 1):
        if draw.random() < 0.3:
            heard[at], heard[at + 1] = heard[at + 1], heard[at]
    given_: list[Recorded] = []
    for place in heard:
        match turn_of(place, len(given_)):
            case Turn.NEXT:
                given_.append(history[place - 1])
            case Turn.AFTER_A_GAP:
                given_ += history[len(given_) : draw.randint(place, len(history))]
    return [*given_, *history[len(given_) :]]


@cache
def whole_history() -> list[Recorded]:
    """Of four real migrations, each of which ended in another way."""
    files = sorted(LOGS.iterdir())
    return [event for path in files for event in events_in(path)]


def events_in(path: Path) -> list[Recorded]:
    messages = [each for each in in_file(path) if ".migration." in each.subject]
    return [codec.decode(each.data, each.sequence) for each in messages]


@given(draw=st.randoms(use_true_random=False))
def test_however_events_are_heard_the_board_is_that_of_the_history(draw: random.Random) -> None:
    history = whole_history()
    assert board_of(heard_live(history, draw)).rows() == board_of(history).rows()


@pytest.mark.parametrize(
    ("name", "phase"),
    [
        ("v1-completed", Phase.COMPLETED),
        ("v1-aborted", Phase.ABORTED),
        ("v1-rolled-back", Phase.ABORTED),
        ("v1-in-doubt", Phase.IN_DOUBT),
    ],
)
def test_a_real_migration_ends_as_it_did(name: str, phase: Phase) -> None:
    messages = in_file(LOGS / f"{name}.ndjson")
    events = [
        codec.decode(each.data, each.sequence) for each in messages if ".migration." in each.subject
    ]
    (row,) = board_of(events).rows()
    assert row.phase is phase
    assert row.is_running == (phase is Phase.IN_DOUBT)
    assert row.remaining_ns(row.summary.requested_wall_ns) is None, "who doubts cannot say"
    assert row.summary.events == len(events)


@given(
    estimates=st.lists(st.tuples(SECONDS, st.one_of(st.none(), SECONDS)), max_size=20),
    looks=st.lists(SECONDS, min_size=2, max_size=20),
)
def test_what_is_still_to_go_never_grows(
    estimates: list[tuple[int, int | None]], looks: list[int]
) -> None:
    """Whatever is estimated, at whatever time, also when clocks go back."""
    countdown, shown = Countdown(), list[int]()
    for at_ns, estimate_ns in estimates:
        countdown = countdown.told(estimate_ns, at_ns)
        for later_ns in sorted(looks):
            left_ns = countdown.remaining_ns(countdown.at_ns + later_ns)
            shown += [] if left_ns is None else [left_ns]
            assert left_ns is None or left_ns >= 0
            assert estimate_ns is None or left_ns is None or left_ns <= estimate_ns
        countdown = countdown.told(None, countdown.at_ns + max(looks))
    assert all(later <= before for before, later in pairwise(shown))


@given(st.lists(st.tuples(st.integers(-90, 90), st.integers(0, 40)), min_size=8, max_size=8))
def test_what_is_still_to_go_never_grows_for_who_looks_whatever_the_hosts_clocks_say(
    steps: list[tuple[int, int]],
) -> None:
    """Each event comes with so many seconds between the clocks, and is looked at for so long."""
    board, now_ns, shown = Board(), START_NS, list[int]()
    for recorded, (apart_s, looked_s) in zip(move(1, rounds=5), steps, strict=True):
        wall_ns = now_ns + apart_s * SECOND_NS
        envelope = msgspec.structs.replace(recorded.envelope, wall_ns=wall_ns)
        event = recorded.event
        if isinstance(event, ev.RoundCompleted):
            slower = event.bandwidth_bytes_per_second / 16**event.figures.round
            event = msgspec.structs.replace(
                event, bandwidth_bytes_per_second=slower, dirty_bytes_per_second=slower / 8
            )
        row = board.learn(Recorded(envelope, event, recorded.sequence), now_ns)
        assert row is not None
        for _ in range(looked_s):
            left_ns = row.remaining_ns(now_ns)
            shown += [] if left_ns is None else [left_ns]
            now_ns += SECOND_NS // 4
    assert all(later <= before for before, later in pairwise(shown))


def test_a_better_estimate_is_shown_at_once_a_worse_one_slows_the_countdown() -> None:
    countdown = Countdown().told(10 * SECOND_NS, 0)
    assert countdown.remaining_ns(4 * SECOND_NS) == 6 * SECOND_NS
    better = countdown.told(2 * SECOND_NS, 4 * SECOND_NS)
    assert better.remaining_ns(4 * SECOND_NS) == 2 * SECOND_NS
    worse = countdown.told(60 * SECOND_NS, 4 * SECOND_NS)
    assert worse.remaining_ns(4 * SECOND_NS) == 6 * SECOND_NS
    assert worse.remaining_ns(34 * SECOND_NS) == 3 * SECOND_NS
    assert worse.remaining_ns(64 * SECOND_NS) == 0


def test_a_running_row_tells_its_round_rates_and_time_to_go() -> None:
    board = board_of(list(move(1, rounds=2)))
    (row,) = board.rows()
    assert (row.phase, row.round, row.remaining_bytes) == (Phase.COPYING, 2, 64 * 2**20)
    left_ns = row.remaining_ns(START_NS + 6 * SECOND_NS)
    assert left_ns is not None
    # A quarter is left each time: 250 ms of copying, then less and less, and a short stun.
    assert 250_000_000 < left_ns < 400_000_000


def test_telemetry_tells_of_the_round_that_runs_and_of_no_other() -> None:
    board, progress = (
        board_of(list(move(1, rounds=0))),
        Progress(
            round=1, sent_bytes=10, total_bytes=110, bytes_per_second=50.0, remaining_bytes=100
        ),
    )
    migration = migration_id(1)
    row = board.hear(migration, progress, START_NS)
    assert row is not None
    assert (row.round, row.remaining_bytes, row.bytes_per_second) == (1, 100, 50.0)
    assert row.remaining_ns(START_NS + SECOND_NS) is not None
    for recorded in move(1, rounds=1):
        board.learn(recorded)
    assert board.hear(migration, progress, START_NS) is None
    assert board.hear("another", progress, START_NS) is None
    encoded = msgspec.msgpack.encode(progress)
    assert told_progress(progress_subject(migration), encoded) == (migration, progress)
    assert told_progress(progress_subject(migration), b"\xc1") is None


def test_no_more_migrations_are_kept_than_its_limit_and_running_ones_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(boards, "MIGRATIONS_KEPT_MAX", 3)
    board = Board()
    for number in range(1, 7):
        for recorded in move(number, ends=number > 1):
            board.learn(recorded)
    kept = [row.summary.machine for row in board.rows()]
    assert kept == ["trainer-1", "trainer-6", "trainer-5"]


def test_a_phase_that_has_passed_does_not_come_back() -> None:
    events = list(move(1, ends=True))
    ended = events.pop()
    late = told(
        migration_id(1),
        "trainer-1",
        ev.PrecopyStarted(connections=1, resident_bytes=1, populate_ns=1),
        at_ns=START_NS,
    )
    assert board_of([*events, late]).rows()[0].phase is Phase.ENDING
    row = board_of([*events, ended, late]).rows()[0]
    assert (row.phase, row.summary.outcome) == (Phase.COMPLETED, Outcome.COMPLETED)


def test_each_word_of_a_filter_must_be_somewhere_in_the_row() -> None:
    rows = board_of([*move(1), *move(12, ends=True)]).rows()
    assert [row.summary.machine for row in matching(rows, "trainer")] == ["trainer-1", "trainer-12"]
    assert [row.summary.machine for row in matching(rows, "HOST-2 completed")] == ["trainer-12"]
    assert matching(rows, "trainer host-9") == []
