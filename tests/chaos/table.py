"""The matrix as a page of the docs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import date

from cells import Cell, CellOutcome, Party, Result, faults_of
from sections import SECTIONS, Section
from steps import Step

_BEGIN = "<!-- chaos: written by make chaos -->"
_END = "<!-- end of chaos -->"
_MEANINGS = {
    Result.MOVED: "it moved",
    Result.STAYED: "it stayed, and runs",
    Result.DEAD: "it died with the only process that held it, and the log says so",
    Result.DOUBT: "it stood still, whole, with the alarm raised, until an operator resolved it",
    Result.NONE: "the party is not there at this step",
    Result.BAD: "something that must hold did not",
}


def page(outcomes: Iterable[CellOutcome], on: date, revision: str) -> str:
    """The whole page."""
    known = list(outcomes)
    minutes = sum(outcome.took_s for outcome in known) / 60
    return "\n".join(
        [
            "# Chaos\n",
            "Each cell is a migration on real processes that was stopped at a named step, with",
            "one fault while it stood there; `make chaos` writes this page. After each, exactly",
            "one copy runs (or the machine is dead with the only process that held it), no page of",
            "the guest is lost or stale, its trainer equals an undisturbed twin bit for bit, each",
            "of its questions has one answer, the log has the migration's end and its chains",
            "verify, and no process, memory, socket, reservation, claim, journal or file is",
            "left.\n",
            f"{len(known)} cells at revision `{revision}`, finished on {on.isoformat()}:",
            f"{_counts(known)}. One after the other they take {minutes:.0f} minutes.\n",
            *(f"- `{result}` {meaning}" for result, meaning in _MEANINGS.items()),
            "",
            tables(known),
        ]
    )


def tables(outcomes: Iterable[CellOutcome]) -> str:
    """What came of each cell, as far as is known, and what the steps are."""
    found = {outcome.cell: outcome for outcome in outcomes}
    parts = []
    for section in SECTIONS:
        if not any(cell in found for cell in section.cells()):
            continue
        parts += [f"## {section.title}", ""]
        parts += [section.told, ""] if section.told else []
        is_of_one = len({step.role for step in section.steps}) == 1
        parts += [*_table(section, found), ""]
        parts += [*(_legend(step, names_who=not is_of_one) for step in section.steps), ""]
    return "\n".join(parts)


def _legend(step: Step, *, names_who: bool) -> str:
    who = ""
    if names_who:
        who = f"the {step.role.removesuffix('_host').rpartition('_')[2]}: "
    return f"- `{step.key}` {who}{step.meaning}"


def with_summary(page: str, summary: str) -> str:
    """``page`` with the summary where its marks are. Raises ``ValueError`` if it has none."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        raise ValueError(f"the page has no {_BEGIN} before an {_END}")
    return f"{before}{begin}\n{summary}\n{end}{after}"


def summary(outcomes: Iterable[CellOutcome], on: date, revision: str) -> str:
    """How often each result came: a row a section, and a row a party and fault."""
    outcomes = list(outcomes)
    by_section = [
        (
            section.title[0].lower() + section.title[1:],
            Counter(o.result for o in outcomes if o.cell.step in section.steps),
        )
        for section in SECTIONS
    ]
    by_row: dict[tuple[Party, str], Counter[Result]] = {}
    for outcome in outcomes:
        row = by_row.setdefault((outcome.cell.party, outcome.cell.fault), Counter())
        row[outcome.result] += 1
    head = " | ".join(f"{result} {meaning}" for result, meaning in _MEANINGS.items())
    rows = [f"| where | {head} |", "|---|" + "--:|" * len(_MEANINGS)]
    rows += [f"| {title} | {_row(counts)} |" for title, counts in by_section]
    rows += ["", f"| party | fault | {head} |", "|---|---|" + "--:|" * len(_MEANINGS)]
    for party in Party:
        for fault in faults_of(party):
            counts = by_row.get((party, fault), Counter())
            rows.append(f"| {party} | {fault} | {_row(counts)} |")
    told = f"{len(outcomes)} cells at revision `{revision}` on {on.isoformat()}: "
    return "\n".join([told + _counts(outcomes) + ".", "", *rows])


def _row(counts: Counter[Result]) -> str:
    return " | ".join(str(counts[result] or "") for result in _MEANINGS)


def _counts(outcomes: Iterable[CellOutcome]) -> str:
    counts = Counter(outcome.result for outcome in outcomes)
    return ", ".join(f"{counts[result]} {result}" for result in Result if counts[result])


def _table(section: Section, found: dict[Cell, CellOutcome]) -> list[str]:
    steps = section.steps
    rows = [
        "| party | fault | " + " | ".join(step.key for step in steps) + " |",
        "|---|---|" + "---|" * len(steps),
    ]
    for party, faults in section.hits.items():
        for fault in faults:
            cells = [found.get(Cell(party, fault, step)) for step in steps]
            if not any(cells):
                continue
            shown = " | ".join("" if cell is None else str(cell.result) for cell in cells)
            rows.append(f"| {party} | {fault} | {shown} |")
    return rows
