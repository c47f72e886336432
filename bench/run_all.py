"""Every bench, one after the other: installs the peers, runs the scripts, prints what they found.

    python bench/run_all.py [--quick] [--out bench/results] [--only NAME]... [--write]

``make bench`` runs it. Each script can be run alone, and longer. What a script prints goes into
``OUT/NAME.txt``, its figures into ``OUT/NAME.json``. ``--write`` puts the
tables into docs/performance.md (``bench/tables.py``), each when its script is done. A script that
fails does not stop the others; its table then says so.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ending
import peers
import records
import tables

FOLDER = Path(__file__).parent
JOB_S_MAX = 3000
"""Three times what the longest takes: ``watchers``, 16 minutes."""


@dataclass(frozen=True)
class Job:
    """A script, with what it is given. ``quick``: for a short look; ``has_peers``: it measures what
    is to be installed.
    """

    name: str
    words: Sequence[str] = ()
    quick: Sequence[str] = ("--quick",)
    has_peers: bool = False


@dataclass(frozen=True)
class Ran:
    """How a script ended. ``why``: the last that it said, if it failed."""

    name: str
    took_s: float
    why: str = ""


JOBS = (
    Job("idle_move", has_peers=True),
    Job("writing_move", has_peers=True),
    Job("stuns", has_peers=True),
    Job("guest_share"),
    Job("service_memory"),
    Job("calls"),
    Job("content"),
    Job("watchers"),
    Job("watched_register"),
    Job("compression"),
    Job("slow_link"),
    Job("transfer", ("--repeats", "5"), ("--size-mib", "32", "--repeats", "1")),
    Job("demo", ("5",), ("1",)),
    Job("switchover", ("--moves", "15"), ("--moves", "1")),
    Job("sampling", ("2",)),
    Job("estimates", ("4",)),
    Job("convergence", (), ()),
    Job("placement", (), ("--gpus", "200")),
    Job(
        "replay",
        ("--events", "300000"),
        ("--events", "5000", "--served", "5000", "--verified", "500"),
    ),
)


def run(job: Job, out: Path, *, quick: bool) -> Ran:
    """Run one script. What it found before is gone."""
    kept = out / f"{job.name}.json"
    kept.unlink(missing_ok=True)
    words = [sys.executable, str(FOLDER / f"{job.name}.py"), *(job.quick if quick else job.words)]
    words += ["--json", str(kept)]
    print(f"\n== {job.name}", flush=True)
    began = time.monotonic()
    done = ending.completed(words, JOB_S_MAX, cwd=FOLDER.parent)
    took_s = time.monotonic() - began
    (out / f"{job.name}.txt").write_text(done.stdout + done.stderr)
    print(_shown(done.stdout if done.returncode == 0 else done.stdout + done.stderr))
    print(f"({took_s:.0f} s, status {done.returncode})", flush=True)
    if done.returncode == 0:
        return Ran(job.name, took_s)
    why = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
    kept.write_text(json.dumps(records.failure(f"bench/{job.name}.py", why)))
    return Ran(job.name, took_s, why)


def _shown(printed: str) -> str:
    """For people: without the line of JSON that some begin with."""
    return "\n".join(line for line in printed.splitlines() if not line.startswith(("[{", "{")))


def summary(ran: Sequence[Ran]) -> str:
    """A line a script."""
    lines = [f"{each.name:16} {each.took_s:5.0f} s  {each.why or 'well'}" for each in ran]
    return "\n".join([*lines, f"{'all':16} {sum(each.took_s for each in ran):5.0f} s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small: only that everything works")
    parser.add_argument("--out", type=Path, default=FOLDER / "results")
    parser.add_argument("--only", action="append", choices=[job.name for job in JOBS])
    parser.add_argument("--write", action="store_true", help="put the tables into the docs")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    jobs = [job for job in JOBS if not given.only or job.name in given.only]
    for lack in peers.install() if any(job.has_peers for job in jobs) else ():
        print(f"missing: {lack}")
    ran: list[Ran] = []
    for job in jobs:
        ran.append(run(job, given.out, quick=given.quick))
        if given.write:
            tables.write(given.out, [job.name])
    print(f"\n{summary(ran)}")
    if any(each.why for each in ran):
        sys.exit(1)


if __name__ == "__main__":
    ending.obey_sigterm()
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("told to end")
