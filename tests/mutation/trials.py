"""Runs tests with one mutant in place, each time in a process of its own.

Two ways. *Warm*: forked from a process that has collected the tests, and the changed function's
code is put into the function that everybody holds already. That costs the tests and nothing else.
*Fresh*: the changed module is loaded first, and all that stands on it after it, for what has run
when the modules were loaded. Time is processor time, as others may need the machine more.

It must not know what a mutant does.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import select
import signal
import sys
import time
import traceback
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from mutants import Mutant

PROTOCOL: Final = Path("protocol/godwit_protocol")
CPU_S_MIN: Final = 10
CPU_TIMES_MAX: Final = 4
"""A mutant that takes so many times what a stage needs without one never ends: that is a failure
too."""
TRIAL_S_MAX: Final = 3600
"""The end of one that waits for ever. It is no verdict: the machine may have been busy."""
BROKEN_STATUS: Final = 70
FAILED_STATUSES: Final = {1, 2}
"""A test failed, or could not even be imported. Any other status is no verdict about a mutant."""
ENDLESS_STATUSES: Final = {-signal.SIGXCPU, -signal.SIGKILL}
PYTEST: Final = (
    *("-x", "-q", "--no-header", "--tb=no", "--assert=plain", "--capture=no", "--timeout=0"),
    *("-p", "no:cacheprovider", "-p", "no:randomly", "--hypothesis-seed=0"),
)
_RUN_WHEN_LOADED: Final = {"_rows", "_add_troubles", "_add_late"}
"""Functions that make a role's table."""


class Job(NamedTuple):
    """One mutant of one module."""

    module: str
    source: str
    mutant: Mutant


@dataclass(frozen=True)
class Stage:
    """Some tests, and the processor seconds after which they count as endless."""

    tests: Sequence[str]
    cpu_s_max: int


class Trial(NamedTuple):
    """What came of one. ``status``: the tests', negative if a signal ended them."""

    status: int
    test: str
    """The one that failed, if any."""
    seconds: float


Tell = Callable[[Job, Trial], None]


def module_path(tree: Path, module: str) -> Path:
    """Where a module of the protocol lies."""
    return tree / PROTOCOL / (module.replace(".", "/") + ".py")


def timed(tree: Path, tests: Sequence[str]) -> Stage:
    """Without a mutant, every stage must pass: else nothing could be concluded."""
    before_s = _children_cpu_s()
    trial = _forked(TRIAL_S_MAX, tree, lambda tell: _run_tests(tests, _Failures(tell)))
    if trial.status != 0:
        print((tree / "output.txt").read_text(errors="replace")[-4000:])
        sys.exit(f"without a mutant, {' '.join(tests)} ends with status {trial.status}")
    needed_s = _children_cpu_s() - before_s
    print(f"{needed_s:6.1f} s  {' '.join(tests)}", flush=True)
    return Stage(tests, max(CPU_S_MIN, round(CPU_TIMES_MAX * needed_s)))


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_all(jobs: Sequence[Job], tree: Path, stage: Stage, tell: Tell) -> None:
    """Try each job, and ``tell`` what came of it; those that can be are tried warm."""
    warm = [job for job in jobs if _can_be_warm(job)]
    if warm:
        sys.stdout.flush()
        server = os.fork()
        if server == 0:
            with _ending_here(BROKEN_STATUS):
                os.chdir(tree)
                os._exit(_run_tests(stage.tests, _Warm(warm, tree, stage.cpu_s_max, tell)))
        _, status = os.waitpid(server, 0)
        if status:
            sys.exit(f"the warm trials ended with status {status}")
    for job in jobs:
        if not _can_be_warm(job):
            tell(job, _fresh(job, tree, stage))


def _fresh(job: Job, tree: Path, stage: Stage) -> Trial:
    def work(told: Callable[[str], None]) -> int:
        sys.meta_path.insert(0, _MutatedModule(job, module_path(tree, job.module)))
        return _run_tests(stage.tests, _Failures(told))

    return _forked(stage.cpu_s_max, tree, work)


def _forked(cpu_s_max: int, tree: Path, work: Callable[[Callable[[str], None]], int]) -> Trial:
    """Do ``work`` in a process of its own, told how to say which test failed."""
    began_s = time.monotonic()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with _ending_here(BROKEN_STATUS):
            os.setpgid(0, 0)
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_s_max, cpu_s_max + 10))
            os.chdir(tree)
            output = os.open(tree / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os._exit(work(lambda test: _write(writing, test)))
    os.close(writing)
    status = _ended(child)
    with os.fdopen(reading, encoding="utf-8") as told:
        test = told.readline().strip()
    return Trial(status, test, time.monotonic() - began_s)


@contextlib.contextmanager
def _ending_here(status: int) -> Iterator[None]:
    """Whatever happens, nothing of the process that forked is run a second time."""
    try:
        yield
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(status)


def _write(pipe: int, test: str) -> None:
    os.write(pipe, f"{test}\n".encode())


def _ended(child: int) -> int:
    watched = os.pidfd_open(child)
    try:
        has_ended, _, _ = select.select([watched], [], [], TRIAL_S_MAX)
    finally:
        os.close(watched)
    if not has_ended:
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if has_ended else BROKEN_STATUS


def _run_tests(tests: Sequence[str], plugin: object) -> int:
    import hypothesis
    from hypothesis import Phase

    # What fails need not be made small, only be seen to fail.
    phases = (Phase.explicit, Phase.reuse, Phase.generate)
    hypothesis.settings.register_profile("mutation", phases=phases)
    hypothesis.settings.load_profile("mutation")
    return int(pytest.main([*PYTEST, *tests], plugins=[plugin]))


class _Failures:
    """Says which test failed."""

    def __init__(self, told: Callable[[str], None]) -> None:
        self._told = told

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._told(report.nodeid)


@dataclass
class _Warm:
    """Runs the collected tests once a job, those first that have caught most in its module."""

    jobs: Sequence[Job]
    tree: Path
    cpu_s_max: int
    tell: Tell
    caught: dict[str, Counter[str]] = field(default_factory=dict)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of pytest's own."""
        assert not session.testsfailed, "the tests could not be collected"
        untouched = self._tried(session, session.items, None)
        assert untouched.status == 0, f"without a mutant, {untouched.test} fails"
        for job in self.jobs:
            best = self.caught.setdefault(job.module, Counter())
            items = sorted(session.items, key=lambda item: -best[item.nodeid])
            trial = self._tried(session, items, job)
            best[trial.test] += 1
            self.tell(job, trial)
        return True

    def _tried(self, session: pytest.Session, items: list[pytest.Item], job: Job | None) -> Trial:
        return _forked(self.cpu_s_max, self.tree, _Try(job, session, items))


class _Try(NamedTuple):
    """One job in a process that has collected the tests."""

    job: Job | None
    session: pytest.Session
    items: list[pytest.Item]

    def __call__(self, told: Callable[[str], None]) -> int:
        from _pytest.main import pytest_runtestloop

        self.session.config.pluginmanager.register(_Failures(told))
        self.session.items = self.items
        if self.job is not None:
            module = sys.modules[_full(self.job.module)]
            assert Path(str(module.__file__)).is_relative_to(Path.cwd()), module.__file__
            put_in_place(self.job, module)
        with contextlib.suppress(self.session.Failed):
            pytest_runtestloop(self.session)
        return int(self.session.testsfailed > 0)


def _can_be_warm(job: Job) -> bool:
    """Whether the change is in a function, and nobody else has made anything of it."""
    name = job.mutant.function
    if job.module == "roles.table" and name in {"row", "ignored", "Table.__init__"}:
        return False
    return _is_private_constant(name) or not name.isupper()


def put_in_place(job: Job, module: types.ModuleType) -> None:
    """Change a module that is in use: the code of its function, or what its table is made of."""
    name = job.mutant.function
    changed = compile(job.mutant.applied(job.source), str(module.__file__), "exec")
    if name.isupper():
        fresh: dict[str, Any] = dict(vars(module))
        exec(changed, fresh)
        for constant in filter(_is_private_constant, fresh):
            setattr(module, constant, fresh[constant])
    else:
        function = _function(module, name)
        function.__code__ = _code_of(changed, name)
    if hasattr(module, "TABLE") and (name.isupper() or name in _RUN_WHEN_LOADED):
        module.TABLE.rows = module._rows()


def _is_private_constant(name: str) -> bool:
    return name.startswith("_") and name.isupper()


def _function(module: types.ModuleType, name: str) -> Any:
    found = reduce(getattr, name.split("."), module)
    return found.fget if isinstance(found, property) else found


def _code_of(code: types.CodeType, name: str) -> types.CodeType:
    for part in name.split("."):
        inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
        (code,) = [each for each in inner if each.co_name == part]
    return code


class _MutatedModule(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module from a changed syntax tree, and leaves all others alone."""

    def __init__(self, job: Job, path: Path) -> None:
        self._job = job
        self._path = path

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """As ``MetaPathFinder.find_spec``."""
        if fullname != _full(self._job.module):
            return None
        return importlib.util.spec_from_file_location(fullname, self._path, loader=self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """As ``Loader.create_module``: the usual one."""

    def exec_module(self, module: types.ModuleType) -> None:
        """As ``Loader.exec_module``."""
        tree = self._job.mutant.applied(self._job.source)
        exec(compile(tree, str(self._path), "exec"), module.__dict__)


def _full(module: str) -> str:
    return f"godwit_protocol.{module}"
