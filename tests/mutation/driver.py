"""Takes each guard of the switchover out of the code, one at a time: some test must fail.

    make mutation            or            python tests/mutation/driver.py [--only PART]

Works on a copy of the checked-out files, never on the tree itself. What is taken out is of the pure
cores, and of the shells around them that order, flush, compare epochs and end machines; which of
these meet which tests is said in ``targets``. All mutants meet the fastest tests first; each later
stage, of slower tests, tries what the one before let pass. Verdicts are kept in ``--results`` by
the mutant and the contents of its module, those of survivors also by the contents of all tests, so
that a run that was ended goes on where it was. With ``--stages 1`` the slower tests wait for a
later run. With ``--alone 2`` all mutants, or each so many-th, meet that stage and no other: what
would it catch by itself? Exit code 1 if a mutant survives that ``equivalent.toml`` does not excuse.
It may run for long beside other work: ``chrt --idle 0 make mutation``.

It must not know what a mutant does.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mutants import mutants
from targets import GROUPS, STAGES_MAX, Group, is_shell
from trials import ENDLESS_STATUSES, FAILED_STATUSES, Job, Trial, module_path, run_all
from verdicts import Ledger, Result, Verdict, digest, excuses, table

ROOT: Final = Path(__file__).parents[2]
UNCHANGING: Final = (
    *("anyio.pytest_plugin", "hypothesis.stateful", "msgspec", "nats.aio.client", "pytest"),
    *("_hypothesis_pytestplugin", "pytest_asyncio.plugin", "structlog"),
)
"""What no mutant changes is imported once."""


@dataclass
class Run:
    """Every mutant, with the verdicts that there are."""

    tree: Path
    ledger: Ledger
    jobs: Sequence[Job]
    excused: Mapping[str, str]
    first: int = 1
    """The stage that all mutants meet."""

    def try_stage(self, number: int, group: Group) -> None:
        """Try what no verdict excuses from this stage."""
        ours = [job for job in self.jobs if job.module in group.modules]
        due = [job for job in ours if self._is_due(job, number)]
        if due:
            print(f"stage {number}: {len(due)} mutants of {_briefly(group)}", flush=True)
            tests = group.stages[number - 1]
            run_all(due, self.tree, tests, lambda job, trial: self._keep(number, job, trial))
            self.ledger.read()

    def _is_due(self, job: Job, number: int) -> bool:
        result = self.result(job)
        if result is None:
            return number == self.first
        return result.verdict is Verdict.SURVIVED and result.by == number - 1

    def _keep(self, number: int, job: Job, trial: Trial) -> None:
        if trial.status in ENDLESS_STATUSES:
            verdict = Verdict.ENDLESS
        elif trial.status in FAILED_STATUSES:
            verdict = Verdict.CAUGHT
        elif trial.status == 0:
            verdict = Verdict.SURVIVED
            print(f"stage {number} let pass  {_named(job)}", flush=True)
        else:
            print(f"no verdict, status {trial.status}  {_named(job)}", flush=True)
            return
        result = Result(verdict, number, trial.seconds, trial.test)
        self.ledger.keep(job.module, job.source, job.mutant, result)

    def result(self, job: Job) -> Result | None:
        """What became of a mutant, if that is known."""
        if f"{job.module} {job.mutant.key}" in self.excused:
            return Result(Verdict.EQUIVALENT, 0, 0.0)
        return self.ledger.find(job.module, job.source, job.mutant)

    def report(self) -> bool:
        """Print what became of all. Returns whether each was caught or is excused."""
        found = [(job, self.result(job)) for job in self.jobs]
        unknown = [job for job, result in found if result is None]
        known = [(job, result) for job, result in found if result is not None]
        survivors = [job for job, result in known if result.verdict is Verdict.SURVIVED]
        for job in survivors:
            print(f"SURVIVED  {_named(job)}")
        print(table([(job.module, result) for job, result in known], STAGES_MAX))
        if unknown:
            print(f"without a verdict: {len(unknown)}")
        return not (survivors or unknown)


def all_jobs(tree: Path, only: str) -> Iterator[Job]:
    """Every mutant of every module whose name and key hold ``only``."""
    for module in (module for group in GROUPS for module in group.modules):
        source = module_path(tree, module).read_text(encoding="utf-8")
        for mutant in mutants(source, is_shell=is_shell(module)):
            if only in f"{module} {mutant.key}":
                yield Job(module, source, mutant)


def _briefly(group: Group) -> str:
    first, *others = group.modules
    return f"{first} and {len(others)} more" if others else first


def _named(job: Job) -> str:
    return f"{job.module}:{job.mutant.line}  {job.mutant.key}"


def copy_of_the_tree(target: Path) -> None:
    """What git does not ignore, as it is now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)


def _digest_of_tests(tree: Path) -> str:
    files = sorted({path for group in GROUPS for stage in group.stages for path in stage})
    folders = sorted({(tree / path).parent for path in files} | {tree / "tests/golden"})
    return digest(
        b"".join(file.read_bytes() for folder in folders for file in sorted(folder.rglob("*.*")))
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="mutants whose module or key holds this")
    parser.add_argument("--stages", type=int, default=STAGES_MAX, help="run the first so many")
    parser.add_argument("--alone", type=int, default=0, help="run this stage, as if it were first")
    parser.add_argument("--every", type=int, default=1, help="try each so many-th mutant only")
    parser.add_argument("--results", type=Path, default=ROOT / ".mutation.json")
    parser.add_argument("--list", action="store_true", help="list the mutants, and run nothing")
    given = parser.parse_args()
    if given.list:
        for job in all_jobs(ROOT, given.only):
            print(_named(job))
        return 0
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        tree = Path(folder)
        copy_of_the_tree(tree)
        places = [str(tree / "protocol"), str(tree / "services")]
        sys.path[:0] = places
        os.environ["PYTHONPATH"] = os.pathsep.join(places)
        for name in UNCHANGING:
            importlib.import_module(name)
        results = given.results.resolve()
        if given.alone:
            results = results.with_name(f"{results.stem}-{given.alone}{results.suffix}")
        ledger = Ledger(results, _digest_of_tests(tree))
        jobs = list(all_jobs(tree, given.only))[:: given.every]
        run = Run(tree, ledger, jobs, excuses(), given.alone or 1)
        for number in [given.alone] if given.alone else range(1, given.stages + 1):
            for group in GROUPS:
                if number <= len(group.stages):
                    run.try_stage(number, group)
        return int(not run.report())


if __name__ == "__main__":
    sys.exit(main())
