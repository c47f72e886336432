"""What came of each cell, on disk: a line of JSON a cell, in a file named after the revision.

So a run that is interrupted goes on where it was, and nothing that was found with other code is
taken for this one's. A cell that has failed stays failed: whoever wants to see it again deletes the
file.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Final

from cells import Cell, CellOutcome, Fault, Party, Result
from steps import step

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "build" / "chaos"
CHANGED: Final = "-changed"
"""Ends the revision of a work tree with changes that are not committed."""


def revision() -> str:
    """Name the code's revision. Raises ``OSError``, ``CalledProcessError`` if git cannot."""
    command = ["git", "describe", "--always", "--abbrev=12", f"--dirty={CHANGED}"]
    return subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


class Results:
    """The outcomes of one revision. Those of a changed work tree are forgotten at the start."""

    def __init__(self, revision: str, folder: Path = FOLDER) -> None:
        self.revision = revision
        self.path = folder / f"{revision}.jsonl"
        if revision.endswith(CHANGED):
            self.path.unlink(missing_ok=True)
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.outcomes = {outcome.cell: outcome for outcome in map(_decode, lines)}

    def add(self, outcome: CellOutcome) -> None:
        """Keep it, on disk too."""
        self.outcomes[outcome.cell] = outcome
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(_encode(outcome) + "\n")


def _encode(outcome: CellOutcome) -> str:
    cell = outcome.cell
    return json.dumps(
        {
            "party": cell.party.name,
            "fault": cell.fault.name,
            "step": cell.step.key,
            "result": outcome.result.name,
            "detail": outcome.detail,
            "took_s": round(outcome.took_s, 1),
        }
    )


def _decode(line: str) -> CellOutcome:
    told = json.loads(line)
    cell = Cell(Party[told["party"]], Fault[told["fault"]], step(told["step"]))
    return CellOutcome(cell, Result[told["result"]], told["detail"], told["took_s"])
