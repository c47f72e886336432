"""Takes each guard of the switchover out of the code, one at a time: some test must fail.

    make mutation            or            python tests/mutation/driver.py [--only PART]

Works on a copy of the checked-out files, never on the tree itself. Each mutant runs in a process of
its own, forked when all that does not change has been imported: the mutated module is loaded from
the changed syntax tree, and the tests run from the fastest to the slowest until one fails. Verdicts
are kept in ``--results`` by the mutant and the contents of its module and of all tests, so that a
run that was ended goes on where it was. With ``--stages 3`` the slowest tests wait for a later run,
which goes on with what the others let pass. Exit code 1 if a mutant survives that
``equivalent.toml`` does not excuse.

It must not know what a mutant does.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from mutants import Mutant, mutants

ROOT: Final = Path(__file__).parents[2]
PROTOCOL: Final = Path("protocol/godwit_protocol")
MODULES: Final = (
    "register",
    "roles.source",
    "roles.source_copying",
    "roles.source_deciding",
    "roles.source_endings",
    "roles.source_state",
    "roles.destination",
    "roles.destination_receiving",
    "roles.destination_deciding",
    "roles.destination_endings",
    "roles.destination_state",
    "roles.recovery",
    "roles.succession",
    "roles.table",
    "roles.coordinator",
)
STAGES: Final = (
    (
        "tests/stateful/test_steps.py",
        "tests/stateful/test_golden.py",
        "tests/protocol/test_register.py",
    ),
    ("tests/stateful/test_migration_machine.py",),
    ("tests/stateful/test_transitions.py",),
    ("tests/proof/test_checker.py",),
)
"""From the fastest to the slowest."""
CPU_S_MIN: Final = 20
CPU_TIMES_MAX: Final = 4
"""A mutant that takes so many times what a stage needs without one never ends: that is a failure
too. Processor time, as the machine may be busy with other work."""
STAGE_S_MAX: Final = 1800
"""The end of one that never ends and needs no processor for it."""
UNCHANGING: Final = (
    *("anyio.pytest_plugin", "hypothesis.stateful", "msgspec", "nats.aio.client", "pytest"),
    *("_hypothesis_pytestplugin", "pytest_asyncio.plugin", "structlog"),
)
BROKEN_STATUS: Final = 70
FAILED_STATUSES: Final = {1, 2}
"""A test failed, or could not even be imported. Any other status is no verdict about a mutant."""
ENDLESS_STATUSES: Final = {-signal.SIGXCPU, -signal.SIGKILL}
PYTEST: Final = (
    *("-x", "-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:randomly"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # that is what UNCHANGING does
)


class Verdict(StrEnum):
    """What became of a mutant."""

    CAUGHT = "caught"
    ENDLESS = "endless"
    """Caught too: the tests did not end."""
    SURVIVED = "survived"
    EQUIVALENT = "equivalent"
    """Survived, and excused with a reason."""


@dataclass(frozen=True)
class Result:
    """One mutant's end. ``by``: the stage that caught it, or the last that let a survivor pass."""

    verdict: Verdict
    by: int
    seconds: float


@dataclass(frozen=True)
class Stage:
    """Some tests, and the processor seconds after which they count as endless."""

    tests: Sequence[str]
    cpu_s_max: int


class MutatedModule(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module from a changed syntax tree, and leaves all others alone."""

    def __init__(self, name: str, path: Path, mutant: Mutant) -> None:
        self._name = name
        self._path = path
        self._mutant = mutant

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """As ``MetaPathFinder.find_spec``."""
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(fullname, self._path, loader=self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """As ``Loader.create_module``: the usual one."""

    def exec_module(self, module: types.ModuleType) -> None:
        """As ``Loader.exec_module``."""
        tree = self._mutant.applied(self._path.read_text(encoding="utf-8"))
        exec(compile(tree, str(self._path), "exec"), module.__dict__)


def judge(
    module: str, mutant: Mutant, tree: Path, stages: Sequence[Stage], passed: int = 0
) -> Result:
    """Run the stages after the ``passed`` ones until one fails, each in a process of its own."""
    began_s = time.monotonic()
    path = _path(tree, module)  # one that does not compile would only seem to be caught
    compile(mutant.applied(path.read_text(encoding="utf-8")), str(path), "exec")
    for number, stage in enumerate(stages[passed:], start=passed + 1):
        status = _run_forked(module, mutant, tree, stage)
        if status in ENDLESS_STATUSES:
            return Result(Verdict.ENDLESS, number, time.monotonic() - began_s)
        if status in FAILED_STATUSES:
            return Result(Verdict.CAUGHT, number, time.monotonic() - began_s)
        if status:
            sys.exit(f"{module} {mutant.key}: the tests ended with status {status}")
    return Result(Verdict.SURVIVED, len(stages), time.monotonic() - began_s)


def _run_forked(module: str, mutant: Mutant | None, tree: Path, stage: Stage) -> int:
    """The tests' exit status, negative if a signal ended them."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (stage.cpu_s_max, stage.cpu_s_max + 10))
        with contextlib.suppress(BaseException):
            os._exit(_run_tests(module, mutant, tree, stage.tests))
        os._exit(BROKEN_STATUS)
    deadline_s = time.monotonic() + STAGE_S_MAX
    while time.monotonic() < deadline_s:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGKILL


def _run_tests(module: str, mutant: Mutant | None, tree: Path, tests: Sequence[str]) -> int:
    import pytest

    if mutant is not None:
        sys.meta_path.insert(0, MutatedModule(_full(module), _path(tree, module), mutant))
    os.chdir(tree)
    output = os.open(tree / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    return int(pytest.main([*PYTEST, "--hypothesis-seed=0", *tests]))


def _full(module: str) -> str:
    return f"godwit_protocol.{module}"


def _path(tree: Path, module: str) -> Path:
    return tree / PROTOCOL / (module.replace(".", "/") + ".py")


class Ledger:
    """Verdicts that are known already."""

    def __init__(self, path: Path, tests: str) -> None:
        self._path = path
        self._tests = tests
        self._known: dict[str, dict[str, str | int | float]] = {}
        if path.exists():
            self._known = json.loads(path.read_text(encoding="utf-8"))

    def find(self, module: str, source: str, mutant: Mutant) -> Result | None:
        """What became of it before. A survivor may be caught by tests that have changed since."""
        entry = self._known.get(self._key(module, source, mutant))
        if entry is None:
            return None
        verdict = Verdict(str(entry["verdict"]))
        if verdict is Verdict.SURVIVED and entry["tests"] != self._tests:
            return None
        return Result(verdict, int(entry["by"]), float(entry["seconds"]))

    def keep(self, module: str, source: str, mutant: Mutant, result: Result) -> None:
        """Write it down at once."""
        self._known[self._key(module, source, mutant)] = {
            "verdict": result.verdict,
            "by": result.by,
            "seconds": round(result.seconds, 2),
            "tests": self._tests,
        }
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self._known, indent=0), encoding="utf-8")
        partial.replace(self._path)

    def _key(self, module: str, source: str, mutant: Mutant) -> str:
        return f"{module} {_digest(source.encode())} {mutant.key}"


def excuses() -> Mapping[str, str]:
    """Why a mutant changes nothing that anybody could see, by module and key."""
    listed = tomllib.loads((Path(__file__).parent / "equivalent.toml").read_text(encoding="utf-8"))
    return {
        f"{module} {entry['mutant']}": entry["reason"]
        for module, entries in listed.items()
        for entry in entries
    }


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


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _digest_of_tests(tree: Path) -> str:
    files = sorted({path for stage in STAGES for path in stage})
    folders = sorted({(tree / path).parent for path in files} | {tree / "tests/golden"})
    return _digest(
        b"".join(file.read_bytes() for folder in folders for file in sorted(folder.rglob("*.*")))
    )


def _timed(tree: Path, tests: Sequence[str]) -> Stage:
    """Without a mutant, every stage must pass: else nothing could be concluded."""
    before_s = _children_cpu_s()
    status = _run_forked("", None, tree, Stage(tests, STAGE_S_MAX))
    if status != 0:
        print((tree / "output.txt").read_text(errors="replace")[-4000:])
        sys.exit(f"without a mutant, {' '.join(tests)} ends with status {status}")
    needed_s = _children_cpu_s() - before_s
    print(f"{needed_s:6.1f} s  {' '.join(tests)}", flush=True)
    return Stage(tests, max(CPU_S_MIN, round(CPU_TIMES_MAX * needed_s)))


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(
    tree: Path, ledger: Ledger, stages: Sequence[Stage], only: str
) -> list[tuple[str, Mutant, Result]]:
    """Judge every mutant of every module whose name and key hold ``only``."""
    excused, found = excuses(), []
    for module in MODULES:
        source = _path(tree, module).read_text(encoding="utf-8")
        for mutant in mutants(source):
            if only not in f"{module} {mutant.key}":
                continue
            result = ledger.find(module, source, mutant)
            passed = result.by if result and result.verdict is Verdict.SURVIVED else len(stages)
            if result is None or passed < len(stages):
                result = judge(module, mutant, tree, stages, result.by if result else 0)
                ledger.keep(module, source, mutant, result)
            if result.verdict is Verdict.SURVIVED and f"{module} {mutant.key}" in excused:
                result = Result(Verdict.EQUIVALENT, 0, result.seconds)
            if result.verdict is Verdict.SURVIVED:
                print(f"SURVIVED  {module}:{mutant.line}  {mutant.key}", flush=True)
            found.append((module, mutant, result))
    return found


def table(found: Sequence[tuple[str, Mutant, Result]]) -> str:
    """A line a module, in Markdown."""
    stages = [f"by stage {number}" for number in range(1, len(STAGES) + 1)]
    lines = [
        f"| module | mutants | caught | {' | '.join(stages)} | equivalent | survived |",
        "|---|" + "---|" * (len(STAGES) + 4),
    ]
    for module in (*dict.fromkeys(each for each, _, _ in found), "all"):
        results = [result for each, _, result in found if module in (each, "all")]
        caught = [r for r in results if r.verdict in (Verdict.CAUGHT, Verdict.ENDLESS)]
        by = [str(sum(r.by == number for r in caught)) for number in range(1, len(STAGES) + 1)]
        excused = sum(r.verdict is Verdict.EQUIVALENT for r in results)
        survived = sum(r.verdict is Verdict.SURVIVED for r in results)
        cells = [module, len(results), len(caught), *by, excused, survived]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="mutants whose module or key holds this")
    parser.add_argument("--stages", type=int, default=len(STAGES), help="run the first so many")
    parser.add_argument("--results", type=Path, default=ROOT / ".mutation.json")
    parser.add_argument("--list", action="store_true", help="list the mutants, and run nothing")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        tree = Path(folder)
        copy_of_the_tree(tree)
        if given.list:
            for module in MODULES:
                for mutant in mutants(_path(tree, module).read_text(encoding="utf-8")):
                    print(f"{module}:{mutant.line}  {mutant.key}")
            return 0
        sys.path[:0] = [str(tree / "protocol"), str(tree / "services")]
        for name in UNCHANGING:
            importlib.import_module(name)
        stages = [_timed(tree, tests) for tests in STAGES[: given.stages]]
        found = run(tree, Ledger(given.results, _digest_of_tests(tree)), stages, given.only)
    print(table(found))
    return int(any(result.verdict is Verdict.SURVIVED for _, _, result in found))


if __name__ == "__main__":
    sys.exit(main())
