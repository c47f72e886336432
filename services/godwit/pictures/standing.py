"""Where a migration has left its machine, and what is to be done about it: the first thing that
whoever opens a story wants to know. Pure; it says no more than the events do.
"""

from __future__ import annotations

from godwit_protocol.events.migration import Outcome
from godwit_protocol.projections import MigrationSummary

from . import doubt
from .narrative import NOT_KNOWN_TO_RUN


def standing(summary: MigrationSummary) -> str:
    """A sentence or three; empty while the migration goes on."""
    source = summary.source or "its host"
    match summary.outcome:
        case Outcome.COMPLETED:
            return f"The machine is on {summary.destination} now. Nothing is left to be done."
        case Outcome.ABORTED if summary.reason in NOT_KNOWN_TO_RUN:
            look = f"godwit machine show {summary.machine}"
            return f"No host has said that the machine runs since; what has become of it: {look}"
        case Outcome.ABORTED:
            return f"The machine stays on {source}, as it was. Nothing of it is lost."
        case Outcome.IN_DOUBT:
            return (
                f"Neither {source} nor {summary.destination} has the proof that the other does not"
                " run the machine, so neither starts it; what they hold of it is kept. Try to bring"
                " back the host that is silent, start or delete nothing by hand, and see what an"
                f" order would lose: {doubt.command(summary)} (docs/in-doubt.md)"
            )
        case _:
            return ""
