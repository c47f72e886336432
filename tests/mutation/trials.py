"""Runs tests with one mutant in place, each time in a process of its own.

Two ways. *Warm*: forked from a process that has collected the tests, and the changed function's
code is put into the function that everybody holds already. That costs the tests and nothing else.
*Fresh*: the changed module is loaded first, and all that stands on it after it, for what has run
when the modules were loaded. A shell's file is changed besides, for the processes that tests start;
these are ended with the trial, and what it wrote lies in the copy of the tree.

Time is processor time, as others may need the machine more. A shell may wait for ever and take
none: each test has a deadline, by what it takes without a mutant, and the time in which the machine
was not to be had does not count. One that did not end is tried without the mutant at once.

It must not know what a mutant does.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import os
import resource
import select
import signal
import sys
import time
import traceback
import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from mutants import Mutant
from targets import full_name, is_shell

CPU_S_MIN: Final = 10
CPU_TIMES_MAX: Final = 4
"""A mutant that takes so many times what a stage needs without one never ends: that is a failure
too."""
TEST_S_MIN: Final = 6.0
TEST_TIMES_MAX: Final = 20.0
"""The same of one test, in seconds in which the machine was to be had: then it waits for ever."""
COLLECTING_S_MAX: Final = 120.0
LOOK_S: Final = 0.1
BUSY_TRIES_MAX: Final = 5
BROKEN_STATUS: Final = 70
FAILED_STATUSES: Final = {1, 2}
"""A test failed, or could not even be imported. Any other status is no verdict about a mutant."""
ENDLESS_STATUSES: Final = {-signal.SIGXCPU, -signal.SIGKILL}
PYTEST: Final = (
    *("-x", "-q", "--no-header", "--tb=no", "--assert=plain", "--capture=no", "--timeout=0"),
    *("-p", "no:cacheprovider", "-p", "no:randomly", "--hypothesis-seed=0", "--basetemp=t"),
)
_PR_SET_CHILD_SUBREAPER: Final = 36
_RUN_WHEN_LOADED: Final = {"_rows", "_add_troubles", "_add_late"}
"""Functions that make a role's table."""


class Job(NamedTuple):
    """One mutant of one module."""

    module: str
    source: str
    mutant: Mutant


class Trial(NamedTuple):
    """What came of one. ``status``: the tests', negative if a signal ended them."""

    status: int
    test: str
    """The one that failed or did not end, if any."""
    seconds: float
    took_s: Mapping[str, float]
    """Each test that ended."""


Tell = Callable[[Job, Trial], None]
Told = Callable[[str, str], None]
"""What befalls a test, and its name."""


@dataclass(frozen=True)
class Limits:
    """When tests count as endless."""

    cpu_s: int = 3600
    took_s: Mapping[str, float] = field(default_factory=dict)
    """What each test takes without a mutant, if that is known: if not, there is no limit."""

    @classmethod
    def of(cls, untouched: Trial, cpu_s: float) -> Limits:
        """By what they took without a mutant."""
        return cls(max(CPU_S_MIN, round(CPU_TIMES_MAX * cpu_s)), untouched.took_s)

    def test_s(self, test: str) -> float:
        """For one test, or for what comes before the first."""
        if not self.took_s:
            return 3600.0
        if not test:
            return COLLECTING_S_MAX
        return TEST_S_MIN + TEST_TIMES_MAX * self.took_s.get(test, 0.0)


def module_path(tree: Path, module: str) -> Path:
    """Where a module lies."""
    part = "services" if is_shell(module) else "protocol"
    return tree / part / (full_name(module).replace(".", "/") + ".py")


def run_all(jobs: Sequence[Job], tree: Path, tests: Sequence[str], tell: Tell) -> None:
    """Try each job, and ``tell`` what came of it; those that can be are tried warm."""
    cold = [job for job in jobs if not _can_be_warm(job)]
    warm = [job for job in jobs if job not in cold]
    if warm:
        sys.stdout.flush()
        server = os.fork()
        if server == 0:
            with _ending_here(BROKEN_STATUS):
                os.chdir(tree)
                os._exit(_run_tests(tests, _Warm(warm, tree, tell)))
        _, status = os.waitpid(server, 0)
        if status:
            sys.exit(f"the warm trials ended with status {status}")
    if cold:
        limits = _limits(tree, lambda limits: _forked(limits, tree, _Fresh(None, tree, tests)))
    for job in cold:
        with _in_its_file(job, tree):
            tell(job, _forked(limits, tree, _Fresh(job, tree, tests)))


def _limits(tree: Path, untouched: Callable[[Limits], Trial]) -> Limits:
    """Without a mutant, every stage must pass: else nothing could be concluded."""
    before_s = _children_cpu_s()
    trial = untouched(Limits())
    if trial.status != 0:
        print((tree / "output.txt").read_text(errors="replace")[-4000:])
        sys.exit(f"without a mutant, the tests end with status {trial.status}: {trial.test}")
    cpu_s = _children_cpu_s() - before_s
    print(f"{cpu_s:6.1f} s of a processor, {trial.seconds:.1f} s in all", flush=True)
    return Limits.of(trial, cpu_s)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class _Fresh(NamedTuple):
    """One job in a process that has loaded nothing of it yet."""

    job: Job | None
    tree: Path
    tests: Sequence[str]

    def __call__(self, told: Told) -> int:
        if self.job is not None:
            path = module_path(self.tree, self.job.module)
            sys.meta_path.insert(0, _MutatedModule(self.job, path))
        return _run_tests(self.tests, _Telling(told))


_written = count(1)


@contextlib.contextmanager
def _in_its_file(job: Job | None, tree: Path) -> Iterator[None]:
    """Change a shell's file, too."""
    if job is None or not is_shell(job.module):
        yield
        return
    path = module_path(tree, job.module)
    _write_anew(path, ast.unparse(job.mutant.applied(job.source)))
    try:
        yield
    finally:
        _write_anew(path, job.source)


def _write_anew(path: Path, source: str) -> None:
    """With a time of its own: by this an import finds that what is compiled is of another file."""
    path.write_text(source, encoding="utf-8")
    second = next(_written)
    os.utime(path, (second, second))


def _forked(limits: Limits, tree: Path, work: Callable[[Told], int]) -> Trial:
    """Do ``work`` in a process of its own, told how to say what befalls its tests."""
    _adopt_orphans()
    began_s = time.monotonic()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with _ending_here(BROKEN_STATUS):
            os.setpgid(0, 0)
            resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 10))
            os.chdir(tree)
            output = os.open(tree / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os._exit(work(lambda what, test: _write(writing, what, test)))
    os.close(writing)
    watched = _Watched(child, reading, limits)
    status = watched.until_it_ends()
    _end_orphans()
    return Trial(status, watched.test, time.monotonic() - began_s, watched.took_s)


class _Watched:
    """The process of one trial, from outside."""

    def __init__(self, child: int, told: int, limits: Limits) -> None:
        self.test = ""
        """The one that it is in, or that failed."""
        self.took_s: dict[str, float] = {}
        self._child = child
        self._told = told
        self._limits = limits
        self._line = b""
        self._failed = ""
        self._began_s = self._had_s()

    def until_it_ends(self) -> int:
        """Its status; it is killed if a test waits for ever."""
        ended = os.pidfd_open(self._child)
        open_ends = {ended, self._told}
        try:
            while True:
                found, _, _ = select.select(open_ends, [], [], LOOK_S)
                _reap_orphans(self._child)
                if self._told in found:
                    told = os.read(self._told, 65536)
                    if not told:
                        open_ends.discard(self._told)
                    self._hear(told)
                elif ended in found:
                    break
                elif self._had_s() - self._began_s > self._limits.test_s(self.test):
                    os.kill(self._child, signal.SIGKILL)
        finally:
            os.close(ended)
            os.close(self._told)
        _, status = os.waitpid(self._child, 0)
        self.test = self._failed or (self.test if status else "")
        return os.waitstatus_to_exitcode(status)

    def _hear(self, told: bytes) -> None:
        *lines, self._line = (self._line + told).split(b"\n")
        for line in lines:
            what, _, test = line.decode().partition(" ")
            now_s = self._had_s()
            if what == "begins":
                self.test, self._began_s = test, now_s
            elif what == "ends":
                self.took_s[test] = now_s - self._began_s
            else:
                self._failed = test

    def _had_s(self) -> float:
        """A clock that stands while the process waits for a processor."""
        waited_ns = 0
        with contextlib.suppress(OSError):
            waited_ns = int(Path(f"/proc/{self._child}/schedstat").read_text().split()[1])
        return time.monotonic() - waited_ns / 1e9


def _adopt_orphans() -> None:
    """What a trial leaves running becomes ours, however it was started."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap_orphans(child: int) -> None:
    """Those that ended: a test may wait until a process is gone that nobody else waits for."""
    while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if ended.si_pid == child:
            break
        os.waitpid(ended.si_pid, 0)


def _end_orphans() -> None:
    while children := _children():
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _children() -> list[int]:
    found: list[int] = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                found.append(int(status.parent.name))
    return found


@contextlib.contextmanager
def _ending_here(status: int) -> Iterator[None]:
    """Whatever happens, nothing of the process that forked is run a second time."""
    try:
        yield
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(status)


def _write(pipe: int, what: str, test: str) -> None:
    os.write(pipe, f"{what} {test}\n".encode())


def _run_tests(tests: Sequence[str], plugin: object) -> int:
    import hypothesis
    from hypothesis import Phase

    # What fails need not be made small, only be seen to fail.
    phases = (Phase.explicit, Phase.reuse, Phase.generate)
    hypothesis.settings.register_profile("mutation", phases=phases)
    hypothesis.settings.load_profile("mutation")
    return int(pytest.main([*PYTEST, *tests], plugins=[plugin]))


class _Telling:
    """Says which test begins, ends, and failed."""

    def __init__(self, told: Told) -> None:
        self._told = told

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._told("begins", nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._told("failed", report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._told("ends", nodeid)


@dataclass
class _Warm:
    """Runs the collected tests once a job, those first that have caught most in its module."""

    jobs: Sequence[Job]
    tree: Path
    tell: Tell
    caught: dict[str, Counter[str]] = field(default_factory=dict)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of pytest's own."""
        assert not session.testsfailed, "the tests could not be collected"
        limits = _limits(
            self.tree, lambda limits: self._tried(session, session.items, None, limits)
        )
        file_s: Counter[str] = Counter()
        for test, took_s in limits.took_s.items():
            file_s[_file(test)] += took_s
        quickest = sorted(session.items, key=lambda item: file_s[_file(item.nodeid)])
        for job in self.jobs:
            best = self.caught.setdefault(job.module, Counter())
            items = sorted(quickest, key=lambda item: -best[item.nodeid])
            trial = self._tried(session, items, job, limits)
            for _ in range(BUSY_TRIES_MAX):
                if self._is_believed(session, trial, limits):
                    best[trial.test] += 1
                    self.tell(job, trial)
                    break
                trial = self._tried(session, items, job, limits)
            else:
                self.tell(job, trial._replace(status=BROKEN_STATUS))
        return True

    def _is_believed(self, session: pytest.Session, trial: Trial, limits: Limits) -> bool:
        """What did not end must end without a mutant, just now: else the machine is too busy."""
        if trial.status not in ENDLESS_STATUSES:
            return True
        items = [item for item in session.items if item.nodeid == trial.test]
        return self._tried(session, items, None, limits).status == 0

    def _tried(
        self, session: pytest.Session, items: list[pytest.Item], job: Job | None, limits: Limits
    ) -> Trial:
        with _in_its_file(job, self.tree):
            return _forked(limits, self.tree, _Try(job, session, items))


class _Try(NamedTuple):
    """One job in a process that has collected the tests."""

    job: Job | None
    session: pytest.Session
    items: list[pytest.Item]

    def __call__(self, told: Told) -> int:
        from _pytest.main import pytest_runtestloop

        self.session.config.pluginmanager.register(_Telling(told))
        self.session.items = self.items
        module = self.job and sys.modules.get(full_name(self.job.module))
        if self.job is not None and module is not None:
            assert Path(str(module.__file__)).is_relative_to(Path.cwd()), module.__file__
            put_in_place(self.job, module)
        with contextlib.suppress(self.session.Failed):
            pytest_runtestloop(self.session)
        return int(self.session.testsfailed > 0)


def _file(test: str) -> str:
    return test.partition("::")[0]


def _can_be_warm(job: Job) -> bool:
    """Whether the change is in a function, and nobody else has made anything of it."""
    name = job.mutant.function
    if is_shell(job.module):
        return _has_the_same_shape(job)
    if job.module == "roles.table" and name in {"row", "ignored", "Table.__init__"}:
        return False
    return _is_private_constant(name) or not name.isupper()


def _has_the_same_shape(job: Job) -> bool:
    """Whether the code of its function can be put into the function."""
    before = _code_of(compile(job.source, "", "exec"), job.mutant.function)
    after = _code_of(compile(job.mutant.applied(job.source), "", "exec"), job.mutant.function)
    if before is None or after is None:
        return False
    return before.co_freevars == after.co_freevars


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
    """The outermost function that ``name`` leads to, without what decorates it."""
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part)
        if not isinstance(found, type):
            break
    found = found.fget if isinstance(found, property) else found
    return inspect.unwrap(getattr(found, "__func__", found))


def _code_of(code: types.CodeType, name: str) -> types.CodeType | None:
    """That of the same function; None if there is none."""
    for part in name.split("."):
        inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
        named = [each for each in inner if each.co_name == part]
        if len(named) != 1:
            return None
        (code,) = named
        if code.co_flags & inspect.CO_OPTIMIZED:
            return code
    return None


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
        if fullname != full_name(self._job.module):
            return None
        return importlib.util.spec_from_file_location(fullname, self._path, loader=self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """As ``Loader.create_module``: the usual one."""

    def exec_module(self, module: types.ModuleType) -> None:
        """As ``Loader.exec_module``."""
        tree = self._job.mutant.applied(self._job.source)
        exec(compile(tree, str(self._path), "exec"), module.__dict__)
