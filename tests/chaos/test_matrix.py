"""The matrix goes on where it was interrupted, and what it finds is what is shown."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import date
from pathlib import Path
from unittest.mock import create_autospec

import cells
import pytest
from arena import Arena, Setting
from cells import (
    OPENINGS,
    VMMS,
    Cell,
    CellOutcome,
    Fault,
    Party,
    Result,
    faults_of,
    run_cell,
    setting_of,
)
from matrix import PAGE, SUMMARY, Queue
from results import Results, Revision, revision
from sections import SECTIONS, all_cells
from steps import HOST_STEPS, STEPS, Course, step
from table import page, summary, with_summary

GOOD = CellOutcome(Cell(Party.SOURCE, Fault.KILL, step("s6")), Result.STAYED, "restarted", 2.5)
BAD = CellOutcome(Cell(Party.NATS, Fault.KILL, step("d9")), Result.BAD, "two run", 1.0)
ON = date(2026, 11, 22)
OF_A_DEAD_VMM = {
    Party.SOURCE_VMM: "† † † † † † † → → → → → ·  † † † † → → → → → → → ·",
    Party.DESTINATION_VMM: "← ← ← ← ← ← ← ← ← ← † † †  · ← ← ← ← ← ← ← ← ? † †",
}
"""At s1 to s13, and d1 to d12."""
IN_AN_ABORT = "† † † † † †  ? ? ? † †  →? ? ? ? ? †"
"""The source's VMM is dead: at x1 to x6, b1 to b5, and r1 to r6."""


def test_every_party_is_hit_by_each_of_its_faults_at_each_step_of_a_host_once() -> None:
    cells = all_cells()
    assert len(cells) == len(set(cells))
    at_hosts = [cell for cell in cells if cell.step in HOST_STEPS]
    assert len(at_hosts) == sum(len(faults_of(party)) for party in Party) * len(HOST_STEPS)


def test_every_step_is_one_of_a_section_and_has_its_own_key() -> None:
    assert [step for section in SECTIONS for step in section.steps] == list(STEPS)
    assert len({step.key for step in STEPS}) == len(STEPS)
    assert {step.course for step in STEPS} == set(Course)
    assert set(OPENINGS) == set(Course) - {Course.GOES_WELL}


def test_a_full_disk_hinders_no_journal_that_is_there() -> None:
    """What a disk of the source's, filled before it begins one, may refuse, is not a violation."""
    full = [cell for cell in all_cells() if cell.fault is Fault.FULL]
    may_stay = {(cell.party, cell.step.key) for cell in full if Result.STAYED in cell.may_become}
    assert may_stay == {(Party.DISK_OF_SOURCE, "d1"), (Party.DISK_OF_SOURCE, "d2")}
    assert all(Result.MOVED in cell.may_become for cell in full)


def test_a_machine_dies_only_with_the_one_process_that_held_it() -> None:
    for party, row in OF_A_DEAD_VMM.items():
        for at, shown in zip(HOST_STEPS, row.split(), strict=True):
            allowed = {Result(shown)}
            if (party, at.key) == (Party.SOURCE_VMM, "d12"):
                allowed.add(Result.MOVED)  # it is just leaving
            assert Cell(party, Fault.KILL, at).may_become == allowed, (party, at.key)


def test_a_machine_that_is_taken_back_dies_with_the_sources_vmm_once_it_runs_there() -> None:
    at_aborts = [each for each in STEPS if each.course is not Course.GOES_WELL]
    for at, shown in zip(at_aborts, IN_AN_ABORT.split(), strict=True):
        allowed = {Result(each) for each in shown}
        assert Cell(Party.SOURCE_VMM, Fault.KILL, at).may_become == allowed, at.key


def test_no_other_fault_lets_a_migration_go_on_that_is_aborted() -> None:
    for cell in all_cells():
        if cell.step.course is not Course.GOES_WELL and cell.party not in VMMS:
            may_move = cell.step.key == "r1"
            assert cell.may_become == {Result.STAYED} | ({Result.MOVED} if may_move else set())


def test_no_other_fault_kills_a_machine_or_leaves_it_in_doubt() -> None:
    for cell in all_cells():
        if cell.party not in VMMS or cell.fault is not Fault.KILL:
            assert not cell.may_become & {Result.DEAD, Result.DOUBT, Result.BAD}, cell


def test_what_is_published_is_what_may_come() -> None:
    """So a page with a violation, or with a † or ? where none may be, fails here too."""
    published: dict[tuple[str, ...], str] = {}
    head: list[str] = []
    for line in PAGE.read_text().splitlines():
        row = line.strip("| ").split(" | ")
        head = row if row[0] == "party" else head
        published |= {(*row[:2], key): shown for key, shown in zip(head[2:], row[2:], strict=False)}
    for cell in all_cells():
        result = Result(published[cell.party, cell.fault, cell.step.key])
        assert result in cell.may_become, f"{cell}: {result}"


@pytest.mark.parametrize("found", [Result.DEAD, Result.DOUBT, Result.NONE])
async def test_what_may_not_come_of_a_cell_is_a_violation(
    monkeypatch: pytest.MonkeyPatch, found: Result
) -> None:
    async def dies(_arena: Arena, _cell: Cell) -> tuple[Result, str]:
        return found, "both are gone"

    monkeypatch.setattr(cells, "_run", dies)
    arena = create_autospec(Arena, instance=True)
    outcome = await run_cell(arena, Cell(Party.SOURCE_VMM, Fault.KILL, step("s8")))
    assert outcome.result is Result.BAD
    assert outcome.detail == f"{found} is none of this cell's: both are gone"
    arena.bury_machine.assert_not_called()


def test_what_was_found_is_known_to_the_next_run_of_the_same_code(tmp_path: Path) -> None:
    for outcome in (GOOD, BAD):
        Results("v1", tmp_path).add(outcome)
    assert Results("v1", tmp_path).outcomes == {GOOD.cell: GOOD, BAD.cell: BAD}
    assert Results("v2", tmp_path).outcomes == {}


def test_a_revision_is_the_tested_codes_committed_or_not(tmp_path: Path) -> None:
    _git(tmp_path, "init", "-q")
    for name in ("docs/page.md", "services/core.py", "tests/chaos/cells.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("first")
    at_first = _committed(tmp_path)
    (tmp_path / "docs/page.md").write_text("second")
    assert revision(tmp_path) == replace(at_first, commit=f"{at_first.commit}-changed")
    with_docs = _committed(tmp_path)
    assert with_docs.code == at_first.code and with_docs.commit != at_first.commit
    (tmp_path / "services/core.py").write_text("second")
    (tmp_path / "services/new.py").write_text("")
    changed = revision(tmp_path)
    assert changed.code != at_first.code and _committed(tmp_path).code == changed.code


def _committed(root: Path) -> Revision:
    _git(root, "add", "--all")
    _git(root, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-m", "all")
    return revision(root)


def _git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=root, check=True)


def test_a_queue_gives_each_cell_once_to_an_arena_that_can_run_it() -> None:
    queue, taken = Queue(all_cells()), []
    while (setting := queue.next_setting(0)) is not None:
        while (cell := queue.take(setting)) is not None:
            assert setting_of(cell.party) is setting
            taken.append(cell)
    assert sorted(map(str, taken)) == sorted(map(str, all_cells()))


def test_early_on_there_is_an_arena_of_each_setting() -> None:
    queue = Queue(all_cells())
    wanted = [queue.next_setting(worker) for worker in range(4)]
    assert wanted == [*Setting, Setting.PLAIN]


def test_the_page_shows_each_cell_and_the_revision() -> None:
    shown = page([GOOD, BAD], ON, "v1")
    assert "2 cells at revision `v1`, finished on 2026-11-22:\n1 ←, 1 ✗." in shown
    (row,) = [
        line for line in shown.splitlines() if "nats-server | SIGKILL" in line and "✗" in line
    ]
    assert [cell.strip() for cell in row.split("|")].index("✗") == 2 + 9


def test_the_summary_takes_the_place_of_the_former_one() -> None:
    old = with_summary(SUMMARY.read_text(), "old")
    new = with_summary(old, summary([GOOD, BAD], ON, "v1"))
    assert "old" in old and "1 ←, 1 ✗." in new and with_summary(new, "old") == old
    with pytest.raises(ValueError, match="no <!-- chaos"):
        with_summary("a page without marks", "new")
