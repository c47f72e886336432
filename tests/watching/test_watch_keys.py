"""What keys do: choosing, opening, filtering, going back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.cli.watch_keys import Key, Mode, Press, Screen, place, pressed, presses

IDS = ("a", "b", "c", "d", "e")
PAGE = 2


def after(typed: str, screen: Screen | None = None) -> Screen:
    screen = screen or Screen()
    for press in presses(typed.encode()):
        screen = pressed(screen, press, IDS, PAGE)
    return screen


@pytest.mark.parametrize(
    ("typed", "chosen"),
    [
        ("j", "b"),
        ("jjk", "b"),
        ("\x1b[B\x1b[B", "c"),
        ("\x1bOB", "b"),
        ("\x1b[6~", "c"),
        ("G", "e"),
        ("Gg", "a"),
        ("\x1b[F\x1b[A", "d"),
        ("kkk", "a"),
        ("jjjjjjjjj", "e"),
        ("G\x1b[5~", "c"),
    ],
)
def test_keys_choose(typed: str, chosen: str) -> None:
    assert after(typed).chosen == chosen


def test_enter_opens_and_q_or_escape_goes_back_and_out() -> None:
    assert after("j\r") == Screen(mode=Mode.DETAIL, chosen="b")
    assert after("j\rj").chosen == "c"
    for back in ("q", "\x1b"):
        assert after(f"j\r{back}").mode is Mode.LIST
        assert after(f"j\r{back}{back}").mode is Mode.OVER


def test_a_filter_is_typed_letter_by_letter_and_taken_or_given_up() -> None:
    assert after("/jq") == Screen(mode=Mode.FILTER, filter="jq")
    assert after("/jq\x7f\r") == Screen(mode=Mode.LIST, filter="j")
    assert after("/jq\x1b") == Screen()
    assert after("/jq\r\x1b") == Screen()  # then Esc first takes the filter away
    assert after("/jq\r\x1b\x1b").mode is Mode.OVER
    assert len(after("/" + "x" * 500).filter) < 100


def test_who_is_gone_is_not_chosen_any_more() -> None:
    assert place(Screen(chosen="z"), IDS) == 0
    assert pressed(Screen(chosen="z"), Press(Key.DOWN), IDS, PAGE).chosen == "b"
    assert pressed(Screen(), Press(Key.ENTER), (), PAGE) == Screen()
    assert pressed(Screen(), Press(Key.DOWN), (), PAGE) == Screen()


def test_unknown_sequences_are_left_out() -> None:
    assert list(presses(b"\x1b[1;5Cj\x1b[200~k")) == [Press(None, "j"), Press(None, "k")]
    assert list(presses(b"\x1b/")) == [Press(Key.ESCAPE), Press(None, "/")]
    assert list(presses(b"\x1b\x1b")) == [Press(Key.ESCAPE), Press(Key.ESCAPE)]


@given(st.binary(max_size=40))
def test_whatever_a_terminal_sends_there_is_a_screen(data: bytes) -> None:
    screen = Screen()
    for press in presses(data):
        screen = pressed(screen, press, IDS, PAGE)
    assert screen.chosen in ("", *IDS)
