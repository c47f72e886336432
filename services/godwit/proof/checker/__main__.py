"""``python -m godwit.proof.checker --crashes 2 …``: a search by hand."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import words
from .beginnings import preparation, stun_intended
from .cores import DESTINATION, SOURCE
from .moves import Moves
from .search import STATES_MAX, Search
from .world import Budget, Violation


def main(arguments: Sequence[str] | None = None) -> int:
    """Search, print what was seen; exit code 1 if a rule is broken, 2 if a bound was reached."""
    given = _parse(arguments)
    budget = Budget(**{name: getattr(given, name) for name in Budget._fields})
    moves = Moves(SOURCE, DESTINATION)
    start = preparation(moves, budget) if given.whole else stun_intended(moves, budget)
    tolerated = {Violation[name.upper()] for name in given.tolerate}
    search = Search(moves, start, tolerated=tolerated)
    report = search.run(states_max=given.states, seconds_max=given.seconds)
    print(words.report_line(report))
    if report.finding is not None:
        print(words.tell(moves, report.finding))
        return 1
    return 0 if report.is_complete else 2


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m godwit.proof.checker",
        description="Search every interleaving of the switchover's real cores for a broken rule.",
    )
    for name in Budget._fields:
        text = name.replace("_", " ")
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=int, default=0, metavar="N", help=f"at most N {text}")
    whole = "begin with the preparation instead of the stun's intent"
    parser.add_argument("--whole", action="store_true", help=whole)
    rules = [violation.name.lower() for violation in Violation]
    go_on = "go on if this rule is broken, to see whether another is"
    parser.add_argument("--tolerate", action="append", default=[], choices=rules, help=go_on)
    parser.add_argument("--states", type=int, default=STATES_MAX, help="states at most")
    parser.add_argument("--seconds", type=float, default=3600.0, help="seconds at most")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
