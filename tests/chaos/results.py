"""What came of each cell, on disk: a line of JSON a cell, in a file named after the code it tests.

So a run that is interrupted goes on where it was, nothing that was found with other code is taken
for this one's, and a commit to the docs forgets nothing. A cell that has failed stays failed:
whoever wants to see it again deletes its line.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cells import Cell, CellOutcome, Fault, Party, Result
from steps import step

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "build" / "chaos"
TESTED: Final = (
    "services",
    "protocol",
    "requirements",
    "pyproject.toml",
    "tests/chaos",
    "tests/support",
)
"""All that can change what comes of a cell."""
DIGEST_CHARACTERS: Final = 12


@dataclass(frozen=True, slots=True)
class Revision:
    """``code``: a digest of what is tested, committed or not. ``commit``: git's name for it all."""

    code: str
    commit: str

    def __str__(self) -> str:
        return f"{self.commit}, code {self.code}"


def revision(root: Path = ROOT) -> Revision:
    """Name the work tree as it is. Raises ``OSError``, ``CalledProcessError`` if git cannot."""
    commit = _git(root, "describe", "--always", "--abbrev=12", "--dirty=-changed").strip()
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", *TESTED)
    digest = hashlib.sha256()
    for name in sorted(set(filter(None, listed.split("\0")))):
        if (root / name).is_file():
            content = hashlib.sha256((root / name).read_bytes()).hexdigest()
            digest.update(f"{name}\0{content}\n".encode())
    return Revision(digest.hexdigest()[:DIGEST_CHARACTERS], commit)


def _git(root: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


class Results:
    """The outcomes of one code, by ``Revision.code``."""

    def __init__(self, code: str, folder: Path = FOLDER) -> None:
        self.code = code
        self.path = folder / f"{code}.jsonl"
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
