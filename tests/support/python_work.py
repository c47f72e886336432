"""Where Python works most: the line that runs most often, in all threads."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Work:
    """How often each line has run; a turn of a loop counts, also where all of it is one line."""

    def __init__(self) -> None:
        self.by_place: Counter[str] = Counter()

    @property
    def most(self) -> tuple[str, int]:
        """The line that has run most often, and how often that was."""
        return self.by_place.most_common(1)[0]


@contextmanager
def counted() -> Iterator[Work]:
    """Count in this thread, and in those that begin meanwhile. Two that count the same line at
    once may lose one, which changes nothing here.
    """
    work = Work()

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            code = frame.f_code
            work.by_place[f"{code.co_filename}:{frame.f_lineno} in {code.co_name}"] += 1
        return trace

    before = sys.gettrace()
    threading.settrace(trace)
    sys.settrace(trace)
    try:
        yield work
    finally:
        sys.settrace(before)
        threading.settrace(before)  # type: ignore[arg-type]
