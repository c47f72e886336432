"""A terminal that gives each key as it is pressed, and afterwards is as it was, however it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

READ_BYTES_MAX: Final = 1024
_LOCAL_FLAGS, _CONTROL_CHARACTERS = 3, 6
_NONE: Final = b"\x00"
_ENDS: Final = (signal.SIGTERM, signal.SIGHUP)


def is_interactive() -> bool:
    """Whether somebody sits there: a terminal to draw on and one to press keys at."""
    both = sys.stdin.isatty() and sys.stdout.isatty()
    return both and os.environ.get("TERM", "dumb") != "dumb"


@contextmanager
def keys_to(take: Callable[[bytes], None]) -> Iterator[None]:
    """Give ``take`` what is typed, unseen and at once. Ctrl-C still interrupts; Ctrl-Z, which would
    leave the terminal as it is now, does nothing.
    """
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    mode = termios.tcgetattr(terminal)
    mode[_LOCAL_FLAGS] &= ~(termios.ICANON | termios.ECHO)
    mode[_CONTROL_CHARACTERS][termios.VSUSP] = _NONE
    loop = asyncio.get_running_loop()

    def read() -> None:
        data = os.read(terminal, READ_BYTES_MAX)
        if data:
            take(data)
        else:
            loop.remove_reader(terminal)

    with _signals_cancel():
        try:
            termios.tcsetattr(terminal, termios.TCSADRAIN, mode)
            loop.add_reader(terminal, read)
            yield
        finally:
            loop.remove_reader(terminal)
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


@contextmanager
def _signals_cancel() -> Iterator[None]:
    """By default they would end the process with the terminal left as it is."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    for number in _ENDS:
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in _ENDS:
            loop.remove_signal_handler(number)
