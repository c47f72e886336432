"""How long is the demo's stun, and what is it made of? Runs the demo several times.

``python bench/demo.py [RUNS]``: prints JSON, then a table of medians with their spread.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import ending

RUNS = 5
RUN_S_MAX = 180
GODWIT = Path(sys.executable).with_name("godwit")


def run_once() -> dict[str, Any]:
    done = ending.completed([str(GODWIT), "demo", "--json"], RUN_S_MAX)
    done.check_returncode()
    findings: dict[str, Any] = json.loads(done.stdout)
    return findings


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):10.2f} {min(values):10.2f} {max(values):10.2f}"


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    findings = [run_once() for _ in range(runs)]
    print(json.dumps(findings))
    print(f"\n{runs} runs{'':20} {'median':>10} {'min':>10} {'max':>10}")
    for key in ("stun_ms", "client_gap_ms", "throughput_gbps", "bytes_sent", "rounds"):
        print(f"{key:26} {spread([each[key] for each in findings])}")
    for part in findings[0]["stun_components_ms"]:
        values = [each["stun_components_ms"][part] for each in findings]
        print(f"  {part:24} {spread(values)}")
    for key in ("queries_asked", "queries_lost", "queries_doubled"):
        print(f"{key:26} {sum(each[key] for each in findings)} in all")
    print(f"answers_equal in all runs: {all(each['answers_equal'] for each in findings)}")


if __name__ == "__main__":
    ending.obey_sigterm()
    main()
