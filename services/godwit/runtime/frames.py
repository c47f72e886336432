"""What a failed call held on to.

An error keeps the frames that it passed, and they whatever they named: views of a machine's memory,
too. Often one of them names the error itself. Then all of it waits for Python's collector, which
may not come by for hours.
"""

from __future__ import annotations

import traceback


def let_go(error: BaseException) -> None:
    """Empty the frames that ``error`` and its causes passed, but for those that still run."""
    seen: set[BaseException] = set()
    last: BaseException | None = error
    while last is not None and last not in seen:
        seen.add(last)
        traceback.clear_frames(last.__traceback__)
        last = last.__cause__ or last.__context__
