"""The mutation driver itself: what it changes, and that its list of excuses is not stale."""

from __future__ import annotations

import ast
import textwrap
import types
from pathlib import Path

import pytest
from driver import MODULES, ROOT
from mutants import mutants
from trials import Job, module_path, put_in_place
from verdicts import Ledger, Result, Verdict, excuses, table

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


def changed(source: str) -> dict[str, str]:
    """What each mutant of ``source`` is, by its key without the function."""
    return {
        mutant.key.partition(": ")[2]: ast.unparse(mutant.applied(source))
        for mutant in mutants(source)
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
        found = mutants(source)
        assert len(found) > 10
        assert len({mutant.key for mutant in found}) == len(found)
        known = names(ast.parse(source)) | {"bool", "lagging"}
        assert "lagging" in source or not any("-> lagging" in mutant.key for mutant in found)
        for mutant in found[::TRIED_EVERY]:
            tree = mutant.applied(source)
            compile(tree, path, "exec")
            assert names(tree) <= known, mutant.key


def test_each_excuse_is_of_a_mutant_that_there_is_and_has_a_reason() -> None:
    there = {
        f"{module} {mutant.key}"
        for module in MODULES
        for mutant in mutants(module_path(ROOT, module).read_text(encoding="utf-8"))
    }
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
