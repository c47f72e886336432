"""What is on the screen, at several widths, with one migration and with two hundred: golden text.

Rewrite with GODWIT_GOLDEN=rewrite, and read what changed.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console, Group

from godwit.cli.watch_drawing import COLUMNS, detail, drawn, line, sparkline
from godwit.cli.watch_keys import Mode, Screen
from godwit.pictures.board import Board, Row
from godwit.pictures.figures import rate
from godwit_protocol.events import migration as ev
from made_up_moves import SECOND_NS, START_NS, migration_id, move, told

GOLDEN = Path(__file__).parents[1] / "golden" / "watch"
HEIGHT = 18


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@cache
def board(migrations: int) -> Board:
    told_board = Board()
    for number in range(1, migrations + 1):
        for recorded in move(number, rounds=number % 4, ends=number % 5 == 0):
            told_board.learn(recorded)
    return told_board


def text_of(screen: Screen, rows: list[Row], width: int, **console: object) -> str:
    now_ns = START_NS + 10 * SECOND_NS
    file = io.StringIO()
    out = Console(file=file, width=width, height=HEIGHT, **console)  # type: ignore[arg-type]
    out.print(Group(*drawn(screen, rows, width, HEIGHT, now_ns)))
    return file.getvalue()


def check(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("GODWIT_GOLDEN") == "rewrite":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("migrations", [1, 200])
def test_the_list(width: int, migrations: int) -> None:
    rows = board(migrations).rows()
    text = text_of(Screen(chosen=migration_id(41)), rows, width)
    assert len(text.splitlines()) <= HEIGHT
    assert max(map(len, text.splitlines())) <= width
    check(f"list-{migrations}-{width}", text)


@pytest.mark.parametrize(
    "screen", [Screen(), Screen(mode=Mode.DETAIL, chosen=migration_id(3))], ids=["list", "detail"]
)
def test_a_log_that_does_not_answer_is_said_above_all(screen: Screen) -> None:
    rows, now_ns = board(200).rows(), START_NS + 10 * SECOND_NS
    lines = drawn(screen, rows, 60, HEIGHT, now_ns, connected=False)
    assert lines[0].plain == "the event log does not answer; this is what it said last"
    assert len(lines) <= HEIGHT
    assert lines[1].plain == drawn(screen, rows, 60, HEIGHT, now_ns)[0].plain


@pytest.mark.parametrize("width", [40, 80, 200])
def test_one_in_detail(width: int) -> None:
    screen = Screen(mode=Mode.DETAIL, chosen=migration_id(3))
    text = text_of(screen, board(5).rows(), width)
    assert len(text.splitlines()) <= HEIGHT
    assert max(map(len, text.splitlines())) <= width
    check(f"detail-{width}", text)


def test_in_a_small_window_the_keys_are_there_and_what_it_ended_of_is_told_whole() -> None:
    told_board = Board()
    why = ev.MigrationEnded(
        outcome=ev.Outcome.ABORTED,
        reason=ev.AbortReason.CANCELLED,
        message="somebody with a long name at a machine with a longer one did not want it",
    )
    ended = told(migration_id(1), "trainer-1", why, at_ns=START_NS + 9 * SECOND_NS)
    for recorded in (*move(1, rounds=9), ended):
        told_board.learn(recorded)
    (row,) = told_board.rows()
    for height in range(2, 30):
        lines = [each.plain for each in detail(row, 40, height, START_NS)]
        assert len(lines) <= height
        assert lines[-1].endswith("q back")
    words = " ".join(lines).split()
    assert set(why.message.split()) <= set(words)
    assert "500" in words, "the stun's limit, which was cut off"


def test_where_there_is_little_room_the_last_rounds_are_shown() -> None:
    told_board = Board()
    for recorded in move(1, rounds=9):
        told_board.learn(recorded)
    (row,) = told_board.rows()
    lines = [each.plain.split() for each in detail(row, 80, HEIGHT, START_NS)]
    rounds = [words[0] for words in lines if words[3:4] == ["sent"]]
    assert rounds == ["4", "5", "6", "7", "8", "9"]
    assert len(lines) == HEIGHT


def test_a_filter_is_shown_and_what_it_leaves() -> None:
    screen = Screen(mode=Mode.FILTER, filter="trainer-9")
    assert "filter: trainer-9_" in text_of(screen, [], 80)
    assert "no migration matches" in text_of(screen, [], 80)
    assert "no migration yet" in text_of(Screen(), [], 80)


def test_without_colour_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = board(5).rows()
    assert "\x1b[32m" in text_of(Screen(), rows, 80, force_terminal=True, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    plain = text_of(Screen(), rows, 80, force_terminal=True, color_system="standard")
    assert not any(f"\x1b[{code}m" in plain for code in range(30, 50))
    assert "▸ trainer-1" in plain


def test_a_change_as_a_line_has_no_control_characters() -> None:
    told_board = Board()
    for recorded in move(1):
        told_board.learn(recorded)
    because = ev.MigrationEnded(
        outcome=ev.Outcome.ABORTED, reason=ev.AbortReason.CANCELLED, message="by\x1b[2J\nhim"
    )
    at_ns = START_NS + 5 * SECOND_NS
    row = told_board.learn(told(migration_id(1), "trainer-1", because, at_ns=at_ns))
    assert row is not None
    text = line(row, at_ns)
    assert text.isprintable()
    assert text == (
        "08:00:05.000  trainer-1 00007919 host-1 → host-2  aborted, round 3, cancelled: by [2J him"
    )


def test_a_row_of_bars_goes_down_by_factors() -> None:
    assert sparkline([4**7, 4**6, 4**3, 1, 0], 4**7) == "█▇▄▂▁"


@pytest.mark.parametrize("name", ["RATE", "WRITES"])
def test_a_rate_has_room_whatever_it_is(name: str) -> None:
    (column,) = (each for each in COLUMNS if each.name == name)
    for bits in (999, 1_000, 53_349_000, 99_949_999, 999_499_999, 99_940_000_000):
        assert len(rate(bits / 8)) <= column.width, rate(bits / 8)
