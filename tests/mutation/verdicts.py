"""What became of each mutant: kept on disk, excused by hand, and told as a table.

It must not know how a mutant is tried.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mutants import Mutant


class Verdict(StrEnum):
    """What became of a mutant."""

    CAUGHT = "caught"
    ENDLESS = "endless"
    """Caught too: the tests did not end."""
    SURVIVED = "survived"
    EQUIVALENT = "equivalent"
    """Not tried: excused with a reason."""


@dataclass(frozen=True)
class Result:
    """One mutant's end. ``by``: the stage that caught it, or the last that let a survivor pass.

    ``test``: the one that failed, if the verdict is so young that it says.
    """

    verdict: Verdict
    by: int
    seconds: float
    test: str = ""


class Ledger:
    """Verdicts that are known already."""

    def __init__(self, path: Path, tests: str) -> None:
        self._path = path
        self._tests = tests
        self._known: dict[str, dict[str, str | int | float]] = {}
        self.read()

    def read(self) -> None:
        """Take in what another process has written down."""
        if self._path.exists():
            self._known = json.loads(self._path.read_text(encoding="utf-8"))

    def find(self, module: str, source: str, mutant: Mutant) -> Result | None:
        """What became of it before. A survivor may be caught by tests that have changed since."""
        entry = self._known.get(self._key(module, source, mutant))
        if entry is None:
            return None
        verdict = Verdict(str(entry["verdict"]))
        if verdict is Verdict.SURVIVED and entry["tests"] != self._tests:
            return None
        test = str(entry.get("test", ""))
        return Result(verdict, int(entry["by"]), float(entry["seconds"]), test)

    def keep(self, module: str, source: str, mutant: Mutant, result: Result) -> None:
        """Write it down at once, beside what others have."""
        self.read()
        self._known[self._key(module, source, mutant)] = {
            "verdict": result.verdict,
            "by": result.by,
            "seconds": round(result.seconds, 2),
            "test": result.test,
            "tests": self._tests,
        }
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self._known, indent=0), encoding="utf-8")
        partial.replace(self._path)

    def _key(self, module: str, source: str, mutant: Mutant) -> str:
        return f"{module} {digest(source.encode())} {mutant.key}"


def excuses() -> Mapping[str, str]:
    """Why a mutant changes nothing that anybody could see, by module and key."""
    listed = tomllib.loads((Path(__file__).parent / "equivalent.toml").read_text(encoding="utf-8"))
    return {
        f"{module} {entry['mutant']}": entry["reason"]
        for module, entries in listed.items()
        for entry in entries
    }


def table(found: Sequence[tuple[str, Result]], stages: int) -> str:
    """Results by module, a line a module, in Markdown."""
    numbers = range(1, stages + 1)
    names = [f"by stage {number}" for number in numbers]
    lines = [
        f"| module | mutants | caught | {' | '.join(names)} | equivalent | survived |",
        "|---|" + "--:|" * (stages + 4),
    ]
    for module in (*dict.fromkeys(each for each, _ in found), "all"):
        results = [result for each, result in found if module in (each, "all")]
        caught = [r for r in results if r.verdict in (Verdict.CAUGHT, Verdict.ENDLESS)]
        by = [sum(r.by == number for r in caught) for number in numbers]
        excused = sum(r.verdict is Verdict.EQUIVALENT for r in results)
        survived = sum(r.verdict is Verdict.SURVIVED for r in results)
        cells = [module, len(results), len(caught), *by, excused, survived]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def digest(data: bytes) -> str:
    """Short, and different for different data."""
    return hashlib.sha256(data).hexdigest()[:16]
