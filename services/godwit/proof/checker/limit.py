"""What remains possible: the one pair of disasters that breaks a rule, and the shortest way to it.

Three sources of authority agree on who may run a machine: a journal on each host, the direct link,
the register. A host's death takes one of them, and with it the word of its journal; a lost write
of the register takes the other. What is left then is a destination that cannot know that the
source has run. It must not know how a search is done, nor how the page is written.
"""

from __future__ import annotations

from typing import Final

from . import words
from .beginnings import stun_intended
from .cores import DESTINATION, SOURCE
from .moves import Moves
from .search import Search
from .world import Budget, Violation

BUDGET: Final = Budget(lost_writes=1, host_deaths=1)
BROKEN: Final = Violation.STALE_RUNS
SECONDS_MAX: Final = 120.0


def shortest_trace() -> str:
    """The shortest trace that breaks ``BROKEN``, in words.

    Raises ``AssertionError`` if there is none, or if another rule is broken first: then the limit
    is not what the documentation says.
    """
    moves = Moves(SOURCE, DESTINATION)
    report = Search(moves, stun_intended(moves, BUDGET)).run(seconds_max=SECONDS_MAX)
    assert report.finding is not None, "a lost write and a dead host break no rule any more"
    told = words.tell(moves, report.finding)
    assert report.finding.violation is BROKEN, told
    return told
