"""How long is the demo's stun, and what is it made of? Runs the demo several times.

``python bench/demo.py [RUNS] [--json FILE]``: prints a table of medians with their spread.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import ending
import records

RUNS = 5
RUN_S_MAX = 180
STUN_MS_MAX = 50.0
GODWIT = Path(sys.executable).with_name("godwit")


def run_once() -> dict[str, Any]:
    done = ending.completed([str(GODWIT), "demo", "--json"], RUN_S_MAX)
    done.check_returncode()
    findings: dict[str, Any] = json.loads(done.stdout)
    return findings


def rows(findings: list[dict[str, Any]]) -> list[records.Row]:
    """The table: all of it, and then what the stun is made of."""
    figures = (
        ("stun", "ms", "stun_ms", STUN_MS_MAX),
        ("longest gap a client saw", "ms", "client_gap_ms", None),
        ("throughput of pre-copy", "Gbit/s", "throughput_gbps", None),
        ("sent", "bytes", "bytes_sent", None),
    )
    parts = [each["stun_components_ms"] for each in findings]
    return [
        *(
            records.Row(what, unit, [each[key] for each in findings], goal)
            for what, unit, key, goal in figures
        ),
        *(records.Row(f"stun: {part}", "ms", [each[part] for each in parts]) for part in parts[0]),
    ]


def notes(findings: list[dict[str, Any]]) -> list[str]:
    """What became of the questions."""
    asked, lost, doubled = (
        sum(each[f"queries_{key}"] for each in findings) for key in ("asked", "lost", "doubled")
    )
    equal = all(each["answers_equal"] for each in findings)
    return [
        f"{asked} questions, {lost} lost, {doubled} answered twice; all answers those of the"
        f" machine that was never moved: {'yes' if equal else 'no'}."
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=int, nargs="?", default=RUNS)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    findings = [run_once() for _ in range(given.runs)]
    record = records.Record("bench/demo.py", rows(findings), given.runs, notes(findings))
    records.tell(record, given.json)


if __name__ == "__main__":
    ending.obey_sigterm()
    main()
