"""The mutation driver itself: what it changes, and that its list of excuses is not stale."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest
from driver import ROOT, all_jobs
from mutants import mutants
from targets import GROUPS, is_shell
from trials import Job, module_path, put_in_place
from verdicts import Ledger, Result, Verdict, excuses, table

MODULES = [module for group in GROUPS for module in group.modules]
TRIED_EVERY = 20
STEP = textwrap.dedent(
    """
    def step(state, given):
        if given.late and state.deadline > given.now:
            return state, ()
        after = _replace(state, phase=Phase.GONE)
        return after, (Append(event=go, durability=Durability.JOURNALED), Say(message=Go()))

    ROWS = {(p.A, Tick): row(step, p.A, p.B), (p.B, Tick): row(step, p.B)}
    LATE = {p.A, p.B}
    """
)

ROLE = textwrap.dedent(
    """
    from types import SimpleNamespace

    _LATE = (0,)
    _NAMES = {"a": 1, "b": 1}

    def step(now):
        if now > _LATE[0]:
            return "late"
        return "in time"

    def _rows():
        rows = {"a": step, "b": step}
        return {name: each for name, each in rows.items() if name in _NAMES}

    TABLE = SimpleNamespace(rows=_rows())
    """
)

SHELL = textwrap.dedent(
    """
    async def end(self, found):
        async with self._alone, asyncio.timeout(1):
            _log.info("ended", twice=found is None)
            await self._written(sync=True)
            await self._told(f"{'nothing' if found is None else found}")
        while self._waiting:
            self._waiting.pop()
        try:
            self._vmm.stop()
        except (GoneError, SilentError):
            return False
        match found:
            case Found():
                self._take(found)
            case _:
                pass
    """
)


def changed(source: str, *, is_shell: bool = False) -> dict[str, str]:
    """What each mutant of ``source`` is, by its key without the function."""
    return {
        mutant.key.partition(": ")[2]: ast.unparse(mutant.applied(source))
        for mutant in mutants(source, is_shell=is_shell)
    }


@pytest.mark.parametrize(
    ("key", "there"),
    [
        (
            "forced true: given.late and state.deadline > given.now -> True",
            "if True:\n        return (state, ())",
        ),
        (
            "forced false: given.late and state.deadline > given.now -> False",
            "if False:\n        return (state, ())",
        ),
        (
            "operand out: given.late -> (nothing)",
            "if state.deadline > given.now and state.deadline > given.now:",
        ),
        ("turned round: state.deadline > given.now -> <=", "state.deadline <= given.now"),
        ("left as it was: phase=Phase.GONE -> (nothing)", "after = _replace(state)\n"),
        (
            "less durable: durability=Durability.JOURNALED -> durability=Durability.LAGGING",
            "durability=Durability.LAGGING",
        ),
        (
            "effect out: Say(message=Go()) -> (after, (Append(event=go, "
            "durability=Durability.JOURNALED),))",
            "return (after, (Append(event=go, durability=Durability.JOURNALED),))",
        ),
        ("row out: (p.B, Tick) -> (nothing)", "ROWS = {(p.A, Tick): row(step, p.A, p.B)}"),
        ("phase out: p.B -> (nothing)", "(p.A, Tick): row(step, p.A),"),
        ("member out: p.A -> (nothing)", "LATE = {p.B}"),
    ],
)
def test_each_operator_makes_its_change_and_no_other(key: str, there: str) -> None:
    found = changed(STEP)
    assert there in found[key]
    original = ast.unparse(ast.parse(STEP)).splitlines()
    differing = set(original) ^ set(found[key].splitlines())
    assert len(differing) <= 2


@pytest.mark.parametrize(
    ("key", "there"),
    [
        (
            "statement out: await self._written(sync=True) -> pass",
            "twice=found is None)\n        pass\n",
        ),
        (
            "done after: await self._written(sync=True) -> its neighbour",
            "        await self._written(sync=True)\n    while",
        ),
        ("not entered: self._alone -> async with asyncio.timeout(1): ", "async with asyncio.tim"),
        ("flag turned: sync=True -> False", "self._written(sync=False)"),
        ("flag turned: return False -> True", "return True"),
        ("forced false: self._waiting -> False", "while False:"),
        ("raised: (GoneError, SilentError) -> except", "SilentError):\n        raise"),
        ("kind out: GoneError -> (SilentError,)", "except (SilentError,):"),
        ("case out: Found() -> (nothing)", "match found:\n        case _:"),
    ],
)
def test_so_does_each_operator_of_shells(key: str, there: str) -> None:
    found = changed(SHELL, is_shell=True)
    (text,) = [text for each, text in found.items() if each.startswith(key)]
    assert there in text
    assert text != ast.unparse(ast.parse(SHELL))


def test_what_only_tells_is_left_alone() -> None:
    found = changed(SHELL, is_shell=True)
    changes = [key.partition(" -> ")[0] for key in found]
    telling = ("statement out: _log", "forced true: found", "turned round: found", "case out: _")
    assert not [change for change in changes if change.startswith(telling)]


def test_an_effect_is_also_done_before_its_neighbour() -> None:
    swapped = [text for key, text in changed(STEP).items() if key.startswith("effect before")]
    assert len(swapped) == 1
    assert swapped[0].index("Say(") < swapped[0].index("Append(")


def names(tree: ast.Module) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def test_no_two_mutants_of_a_module_have_one_key_and_those_tried_could_be_programs() -> None:
    """One that uses a name that is not there would only seem to be caught."""
    for module in MODULES:
        path = module_path(ROOT, module)
        source = path.read_text(encoding="utf-8")
        found = mutants(source, is_shell=is_shell(module))
        assert found
        assert len({mutant.key for mutant in found}) == len(found)
        known = names(ast.parse(source)) | {"bool", "lagging"}
        assert "lagging" in source or not any("-> lagging" in mutant.key for mutant in found)
        for mutant in found[::TRIED_EVERY]:
            tree = mutant.applied(source)
            compile(tree, path, "exec")
            assert names(tree) <= known, mutant.key


def test_each_excuse_is_of_a_mutant_that_there_is_and_has_a_reason() -> None:
    there = {f"{job.module} {job.mutant.key}" for job in all_jobs(ROOT, "")}
    for mutant, reason in excuses().items():
        assert mutant in there, f"{mutant} is excused, and is no mutant any more"
        assert len(reason) > 20


def test_what_was_caught_stays_so_and_a_survivor_is_judged_anew_by_other_tests(
    tmp_path: Path,
) -> None:
    first, second = mutants(STEP)[:2]
    ledger = Ledger(tmp_path / "results.json", tests="then")
    ledger.keep("m", STEP, first, Result(Verdict.CAUGHT, 2, 1.0))
    ledger.keep("m", STEP, second, Result(Verdict.SURVIVED, 4, 9.0))
    later = Ledger(tmp_path / "results.json", tests="now")
    assert later.find("m", STEP, first) == Result(Verdict.CAUGHT, 2, 1.0)
    assert later.find("m", STEP, second) is None
    assert ledger.find("m", STEP, second) == Result(Verdict.SURVIVED, 4, 9.0)
    assert later.find("m", STEP + "\n# changed\n", first) is None


@pytest.mark.parametrize(
    ("key", "now", "rows"),
    [
        ("step: forced false: now > _LATE[0] -> False", "in time", {"a", "b"}),
        ("_rows: row out: 'a' -> (nothing)", "late", {"b"}),
        ("_NAMES: row out: 'b' -> (nothing)", "late", {"a"}),
    ],
)
def test_a_change_is_put_in_place_where_everybody_has_the_function_already(
    key: str, now: str, rows: set[str], tmp_path: Path
) -> None:
    role = types.ModuleType("role")
    role.__file__ = str(tmp_path / "role.py")
    exec(ROLE, role.__dict__)
    step, table = role.step, role.TABLE
    (mutant,) = [mutant for mutant in mutants(ROLE) if mutant.key == key]
    put_in_place(Job("role", ROLE, mutant), role)
    assert step(1) == now
    assert table.rows == dict.fromkeys(rows, step)


HOLDER = textwrap.dedent(
    """
    from contextlib import contextmanager

    class Holder:
        @classmethod
        def of(cls, found):
            return cls() if found else None

        @property
        def size(self):
            return 1 if self else 2

        @contextmanager
        def held(self):
            def inner():
                return "held" if self else "free"
            yield inner()
    """
)


@pytest.mark.parametrize(
    ("key", "now"),
    [
        ("Holder.of: forced false: found -> False", (False, 1, "held")),
        ("Holder.size: forced false: self -> False", (True, 2, "held")),
        ("Holder.held.inner: forced false: self -> False", (True, 1, "free")),
    ],
)
def test_a_function_is_changed_whatever_decorates_or_surrounds_it(
    key: str, now: tuple[bool, int, str], tmp_path: Path
) -> None:
    module = types.ModuleType("holder")
    module.__file__ = str(tmp_path / "holder.py")
    exec(HOLDER, module.__dict__)
    holder = module.Holder()
    (mutant,) = [mutant for mutant in mutants(HOLDER) if mutant.key == key]
    put_in_place(Job("godwit.holder", HOLDER, mutant), module)
    with holder.held() as held:
        assert (module.Holder.of(True) is not None, holder.size, held) == now


FIRST_WAITS = """
import subprocess, sys, time

def test_that_starts_another():
    with open("child", "w") as file:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                                 start_new_session=True)
        file.write(str(child.pid))

def test_that_waits():
    time.sleep(600)
"""


def test_a_test_that_waits_for_ever_is_ended_and_with_it_all_that_was_started(
    tmp_path: Path,
) -> None:
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        import trials

        trials.TEST_S_MIN = trials.LOOK_S = 0.2
        tree = Path(sys.argv[1])
        known = trials.Limits(took_s={"test_waits.py::test_that_waits": 0.0})
        trial = trials._forked(known, tree, trials._Fresh(None, tree, ["test_waits.py"]))
        print(trial.status, trial.test)
        """
    )
    (tmp_path / "test_waits.py").write_text(FIRST_WAITS)
    places = {"PYTHONPATH": str(Path(__file__).parent)}
    told = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        env={**os.environ, **places},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert told.stdout.split() == [str(-signal.SIGKILL), "test_waits.py::test_that_waits"]
    assert not Path("/proc", (tmp_path / "child").read_text()).exists()


def test_the_table_adds_up() -> None:
    lines = table(
        [
            ("a", Result(Verdict.CAUGHT, 1, 1.0)),
            ("a", Result(Verdict.ENDLESS, 3, 1.0)),
            ("b", Result(Verdict.EQUIVALENT, 0, 1.0)),
            ("b", Result(Verdict.SURVIVED, 0, 1.0)),
        ],
        4,
    ).splitlines()
    assert [line.split(" | ") for line in lines[2:]] == [
        ["| a", "2", "2", "1", "0", "1", "0", "0", "0 |"],
        ["| b", "2", "0", "0", "0", "0", "0", "1", "1 |"],
        ["| all", "4", "2", "1", "0", "1", "0", "1", "1 |"],
    ]
