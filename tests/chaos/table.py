"""The matrix as a page of the docs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import date

from cells import FAULTS, Cell, CellOutcome, Party, Result
from steps import STEPS, Role

_MEANINGS = {
    Result.MOVED: "it moved",
    Result.STAYED: "it stayed, and runs",
    Result.DEAD: "it died with the only process that held it, and the log says so",
    Result.DOUBT: "it stands still, whole, with the alarm raised: an operator decides",
    Result.NONE: "the party is not there at this step",
    Result.BAD: "something that must hold did not",
}


def page(outcomes: Iterable[CellOutcome], on: date, *, may_wire: bool) -> str:
    """The whole page. ``may_wire``: whether this user could make namespaces and disks."""
    found = {outcome.cell: outcome for outcome in outcomes}
    results = Counter(outcome.result for outcome in found.values())
    counts = ", ".join(f"{count} {result}" for result, count in results.items())
    parts = [
        "# Chaos\n",
        "Each cell is a migration on real processes that was stopped at a named step, with one",
        "fault while it stood there; `make chaos` writes this page. After each, exactly one copy",
        "runs, the guest's stamps are whole, each of its questions has one answer, the log's",
        "chains verify, and no process, memory, reservation, claim or journal is left behind.\n",
        f"{len(found)} cells on {on.isoformat()}: {counts}.\n",
        *(f"- `{result}` {meaning}" for result, meaning in _MEANINGS.items()),
        "- an empty cell was not run",
        "",
    ]
    if not may_wire:
        parts.append("Cuts and full disks need root, and were not tried.\n")
    for role, name in ((Role.SOURCE, "source"), (Role.DESTINATION, "destination")):
        parts += ["", f"## At each step of the {name}", "", *_table(role, found), ""]
        steps = [step for step in STEPS if step.role is role]
        parts += [f"- `{step.key}` {step.meaning}" for step in steps]
    return "\n".join(parts) + "\n"


def _table(role: Role, found: dict[Cell, CellOutcome]) -> list[str]:
    steps = [step for step in STEPS if step.role is role]
    rows = [
        "| party | fault | " + " | ".join(step.key for step in steps) + " |",
        "|---|---|" + "---|" * len(steps),
    ]
    for party in Party:
        for fault in FAULTS[party]:
            cells = [found.get(Cell(party, fault, step)) for step in steps]
            shown = " | ".join("" if cell is None else str(cell.result) for cell in cells)
            rows.append(f"| {party} | {fault} | {shown} |")
    return rows
