"""What keys do in ``godwit watch``: a pure state, and one step a key.

Knows rows only by their ids, and nothing of a terminal but the bytes that it sends for a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import Final, NamedTuple

import msgspec

FILTER_CHARACTERS_MAX: Final = 60


class Mode(Enum):
    """What is on the screen."""

    LIST = auto()
    FILTER = auto()
    """The list, while a filter is typed."""
    DETAIL = auto()
    OVER = auto()


class Key(Enum):
    """A key that is not a character."""

    UP = auto()
    DOWN = auto()
    PAGE_UP = auto()
    PAGE_DOWN = auto()
    HOME = auto()
    END = auto()
    ENTER = auto()
    ESCAPE = auto()
    BACKSPACE = auto()


class Press(NamedTuple):
    """A key, or else a character."""

    key: Key | None
    text: str = ""


class Screen(msgspec.Struct, frozen=True, kw_only=True):
    """Where the user is. ``chosen`` is a migration's id; empty: the first."""

    mode: Mode = Mode.LIST
    chosen: str = ""
    filter: str = ""


_SEQUENCES: Final[dict[str, Key]] = {
    "[A": Key.UP,
    "OA": Key.UP,
    "[B": Key.DOWN,
    "OB": Key.DOWN,
    "[5~": Key.PAGE_UP,
    "[6~": Key.PAGE_DOWN,
    "[H": Key.HOME,
    "OH": Key.HOME,
    "[1~": Key.HOME,
    "[F": Key.END,
    "OF": Key.END,
    "[4~": Key.END,
}
_CONTROLS: Final = {
    "\r": Key.ENTER,
    "\n": Key.ENTER,
    "\x7f": Key.BACKSPACE,
    "\b": Key.BACKSPACE,
}
_LETTERS: Final = {"k": Key.UP, "j": Key.DOWN, "g": Key.HOME, "G": Key.END, "q": Key.ESCAPE}


def presses(data: bytes) -> Iterator[Press]:
    """The keys of what a terminal sent at once; what is no key that is known is left out."""
    text = data.decode(errors="ignore")
    while text:
        if text[0] == "\x1b":
            name = next((each for each in _SEQUENCES if text.startswith(each, 1)), "")
            if name or text[1:2] not in ("[", "O"):
                yield Press(_SEQUENCES.get(name, Key.ESCAPE))
                text = text[1 + len(name) :]
            else:
                text = _after_sequence(text)
            continue
        if text[0] in _CONTROLS:
            yield Press(_CONTROLS[text[0]])
        elif text[0].isprintable():
            yield Press(None, text[0])
        text = text[1:]


def _after_sequence(text: str) -> str:
    """Leave an unknown escape sequence out, which ends with a letter or ``~``."""
    ends = (at for at, each in enumerate(text) if at > 1 and (each.isalpha() or each == "~"))
    return text[next(ends, len(text)) + 1 :]


def pressed(screen: Screen, press: Press, ids: Sequence[str], page: int) -> Screen:
    """The screen after a key. ``ids``: the rows as they are listed; ``page``: how many one sees."""
    if screen.mode is Mode.FILTER:
        return _in_filter(screen, press)
    key = press.key or _LETTERS.get(press.text)
    if key is Key.ESCAPE:
        return _back(screen)
    if key is Key.ENTER:
        chosen = _chosen(screen, ids)
        return _replace(screen, mode=Mode.DETAIL, chosen=chosen) if chosen else screen
    if press.text == "/":
        return _replace(screen, mode=Mode.FILTER)
    steps = {
        Key.UP: -1,
        Key.DOWN: 1,
        Key.PAGE_UP: -page,
        Key.PAGE_DOWN: page,
        Key.HOME: -len(ids),
        Key.END: len(ids),
    }
    return _moved(screen, steps[key], ids) if key in steps else screen


def place(screen: Screen, ids: Sequence[str]) -> int:
    """Which of the rows is chosen; the first, if the one that was is gone."""
    return ids.index(screen.chosen) if screen.chosen in ids else 0


def _in_filter(screen: Screen, press: Press) -> Screen:
    match press.key:
        case None:
            text = (screen.filter + press.text)[:FILTER_CHARACTERS_MAX]
            return _replace(screen, filter=text)
        case Key.BACKSPACE:
            return _replace(screen, filter=screen.filter[:-1])
        case Key.ESCAPE:
            return _replace(screen, mode=Mode.LIST, filter="")
        case Key.ENTER:
            return _replace(screen, mode=Mode.LIST)
        case _:
            return screen


def _back(screen: Screen) -> Screen:
    """Out of the detail, then out of the filter, then out."""
    if screen.mode is Mode.DETAIL:
        return _replace(screen, mode=Mode.LIST)
    return _replace(screen, filter="") if screen.filter else _replace(screen, mode=Mode.OVER)


def _moved(screen: Screen, by: int, ids: Sequence[str]) -> Screen:
    if not ids:
        return screen
    to = min(max(place(screen, ids) + by, 0), len(ids) - 1)
    return _replace(screen, chosen=ids[to])


def _chosen(screen: Screen, ids: Sequence[str]) -> str:
    return ids[place(screen, ids)] if ids else ""


_replace = msgspec.structs.replace
