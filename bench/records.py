"""What a bench found: rows of a table, each a measure of ours beside its peer's in the same run.

Everything is kept in turns: the ratio of a turn compares two figures of the same seconds, so that a
machine which is busy slows both. A file holds the rows of one script, for ``bench/tables.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

COLUMNS = ("measure", "ours", "peer", "peer's", "ratio", "goal", "met")
RESAMPLES = 2_000


@dataclass(frozen=True)
class Row:
    """One measure. ``theirs``: the peer's figure of each turn; empty if there is no peer, and the
    goal is of ours alone. ``at_least``: whether the ratio must reach the goal, or not exceed it.
    ``interval``: ratios are shown with the 95 % interval of their median, not least and most.
    """

    measure: str
    unit: str
    ours: Sequence[float]
    goal: float | None = None
    at_least: bool = False
    peer: str = ""
    theirs: Sequence[float] = field(default_factory=tuple)
    interval: bool = False

    @property
    def ratios(self) -> list[float]:
        """Ours to the peer's, turn by turn; none if there is no peer."""
        if not self.theirs:
            return []
        return [own / other for own, other in zip(self.ours, self.theirs, strict=True) if other]

    @property
    def judged(self) -> float:
        """What is held against the goal."""
        return statistics.median(self.ratios if self.theirs else self.ours)

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None if there is none."""
        if self.goal is None:
            return None
        return self.judged >= self.goal if self.at_least else self.judged <= self.goal


@dataclass(frozen=True)
class Record:
    """One run of one script. ``notes``: what a reader must know to read the figures."""

    script: str
    rows: Sequence[Row]
    turns: int
    notes: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """Every figure, and what follows from them."""
        rows = [
            {
                **asdict(row),
                "ratios": row.ratios,
                "ratio_interval": interval(row.ratios) if row.interval else None,
                "met": row.met,
            }
            for row in self.rows
        ]
        return {
            "script": self.script,
            "turns": self.turns,
            "cores": os.cpu_count(),
            "load_average": round(os.getloadavg()[0], 1),
            "notes": list(self.notes),
            "rows": rows,
        }


def failure(script: str, why: str) -> dict[str, Any]:
    """What a file holds of a script that did not end well."""
    return {"script": script, "failed": why}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the median, by resampling."""
    draw = random.Random(0)
    medians = sorted(
        statistics.median(draw.choices(values, k=len(values))) for _ in range(RESAMPLES)
    )
    return medians[RESAMPLES * 25 // 1000], medians[RESAMPLES * 975 // 1000 - 1]


def spread(values: Sequence[float], within: Sequence[float] | None = None) -> str:
    """Median with the least and the most, or with the interval that is given."""
    middle = figure(statistics.median(values))
    low, high = within or (min(values), max(values))
    return f"{middle} ({figure(low)} - {figure(high)})" if len(values) > 1 else middle


def figure(value: float) -> str:
    """Three digits that matter."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of a file as a row of the table."""
    ratios, goal, met = row["ratios"], row["goal"], row["met"]
    sign = "≥" if row["at_least"] else "≤"
    return (
        f"{row['measure']}, {row['unit']}",
        spread(row["ours"]),
        row["peer"] or "-",
        spread(row["theirs"]) if row["theirs"] else "-",
        spread(ratios, row.get("ratio_interval")) if ratios else "-",
        "-" if goal is None else f"{sign} {figure(goal)}",
        {True: "yes", False: "**no**", None: "-"}[met],
    )


def markdown(record: dict[str, Any]) -> str:
    """The table of a file, with its notes; or the file's own text, if it has one."""
    if "failed" in record:
        return f"`{record['script']}` failed when it was run last: {record['failed']}"
    if "text" in record:
        return str(record["text"])
    lines = [" | ".join(("", *COLUMNS, "")).strip(), "|" + "---|" * len(COLUMNS)]
    lines += [" | ".join(("", *cells(row), "")).strip() for row in record["rows"]]
    turns, load = record["turns"], record["load_average"]
    head = f"`{record['script']}`, median of {turns} (least - most), load {load}."
    return "\n".join([" ".join([head, *record["notes"]]), "", *lines])


def given(about: str, *, size_mib: int, quick_mib: int, turns: int) -> argparse.Namespace:
    """What every script takes: ``size_mib``, ``turns``, ``quick`` and ``json``."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--size-mib", type=int, default=size_mib)
    parser.add_argument("--turns", type=int, default=turns)
    parser.add_argument("--quick", action="store_true", help="small and once: only that it works")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    found = parser.parse_args()
    if found.quick:
        found.size_mib, found.turns = quick_mib, 1
    return found


def tell(record: Record, path: Path | None) -> None:
    """Print the table, and write the file."""
    told = record.as_json()
    print(markdown(told))
    _keep(told, path)


def tell_text(script: str, text: str, path: Path | None, **figures: Any) -> None:
    """Print what has no peer's column in words of its own, and write them with their figures."""
    print(text)
    _keep({"script": script, "text": text, **figures}, path)


def _keep(told: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n")
