"""Every bench, one after the other: installs the peers, runs the scripts, prints what they found.

    python bench/run_all.py [--quick] [--out bench/results] [--only NAME]... [--write]

``make bench`` runs it. Each script can be run alone, and longer. What a script prints goes into
``OUT/NAME.txt``, its figures into ``OUT/NAME.json`` where it keeps them so. ``--write`` puts the
tables into docs/performance.md (``bench/tables.py``). A script that fails does not stop the others.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import peers
import tables

FOLDER = Path(__file__).parent
JOB_S_MAX = 1200


@dataclass(frozen=True)
class Job:
    """A script, with what it is given. ``quick``: for a short look; ``keeps``: it writes JSON."""

    name: str
    words: Sequence[str] = ()
    quick: Sequence[str] = ("--quick",)
    keeps: bool = True


JOBS = (
    Job("idle_move"),
    Job("writing_move"),
    Job("stuns"),
    Job("guest_share"),
    Job("content"),
    Job("watchers"),
    Job("compression"),
    Job("transfer", ("--repeats", "5"), ("--size-mib", "32", "--repeats", "1")),
    Job("demo", ("5",), ("1",), keeps=False),
    Job("switchover", ("--moves", "15"), ("--moves", "1")),
    Job("sampling", ("2",), ("1",), keeps=False),
    Job("estimates", ("4",), ("1",), keeps=False),
    Job("convergence", (), ()),
    Job("placement", (), ("--gpus", "200")),
    Job("replay", ("--events", "300000"), ("--events", "5000"), keeps=False),
)


def run(job: Job, out: Path, *, quick: bool) -> bool:
    """Run one script; whether it ended well."""
    words = [sys.executable, str(FOLDER / f"{job.name}.py"), *(job.quick if quick else job.words)]
    if job.keeps:
        words += ["--json", str(out / f"{job.name}.json")]
    print(f"\n== {job.name}", flush=True)
    began = time.monotonic()
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=JOB_S_MAX, check=False, cwd=FOLDER.parent
        )
    except subprocess.TimeoutExpired:
        print(f"did not end within {JOB_S_MAX} s", flush=True)
        return False
    (out / f"{job.name}.txt").write_text(done.stdout + done.stderr)
    print(_shown(done.stdout if done.returncode == 0 else done.stdout + done.stderr))
    print(f"({time.monotonic() - began:.0f} s, status {done.returncode})", flush=True)
    return done.returncode == 0


def _shown(printed: str) -> str:
    """For people: without the line of JSON that some begin with."""
    return "\n".join(line for line in printed.splitlines() if not line.startswith(("[{", "{")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small: only that everything works")
    parser.add_argument("--out", type=Path, default=FOLDER / "results")
    parser.add_argument("--only", action="append", choices=[job.name for job in JOBS])
    parser.add_argument("--write", action="store_true", help="put the tables into the docs")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for lack in peers.install():
        print(f"missing: {lack}")
    jobs = [job for job in JOBS if not given.only or job.name in given.only]
    failed = [job.name for job in jobs if not run(job, given.out, quick=given.quick)]
    if given.write:
        tables.write(given.out)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
