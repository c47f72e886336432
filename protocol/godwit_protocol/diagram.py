"""A role's transition table as text: a Mermaid state diagram, and the full table. Pure.

Knows tables, and nothing of where the text goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import TypeVar

from .roles.inputs import Input, PeerInput
from .roles.table import Phased, Row, Table

S = TypeVar("S", bound=Phased)

_REFUSED_BY_PEER = "peer's error"
_REFUSED = "error"
_IGNORED = "·"


def state_diagram(table: Table[S], phases: Iterable[StrEnum]) -> str:
    """Return ``stateDiagram-v2`` text: arrows between phases, in the order of ``phases``.

    What leaves a phase as it is does not show. A phase that nothing enters begins the diagram; one
    that nothing leaves ends it.
    """
    order = list(phases)
    arrows = _arrows(table)
    lines = ["stateDiagram-v2"]
    entered = {after for _before, after in arrows}
    left = {before for before, _after in arrows}
    lines += [f"    [*] --> {phase}" for phase in order if phase not in entered]
    for before in order:
        for after in order:
            inputs = arrows.get((before, after), ())
            if inputs:
                lines.append(f"    {before} --> {after}: {', '.join(inputs)}")
    lines += [f"    {phase} --> [*]" for phase in order if phase not in left]
    return "\n".join(lines) + "\n"


def _arrows(table: Table[S]) -> dict[tuple[StrEnum, StrEnum], list[str]]:
    arrows: dict[tuple[StrEnum, StrEnum], list[str]] = {}
    for phase, input_type, after in table.transitions():
        if phase is not after:
            arrows.setdefault((phase, after), []).append(input_type.__name__)
    return arrows


def full_table(table: Table[S], phases: Iterable[StrEnum]) -> str:
    """Return a Markdown table of all inputs (rows) by all ``phases`` (columns).

    A cell names the phases that may come next, says that the input is passed over, or which kind of
    error it is.
    """
    order = list(phases)
    lines = [
        f"| input | {' | '.join(order)} |",
        f"|---|{'---|' * len(order)}",
    ]
    for input_type in _input_types(table):
        cells = (_cell(table, phase, input_type) for phase in order)
        lines.append(f"| {input_type.__name__} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _input_types(table: Table[S]) -> Iterator[type[Input]]:
    """Every input that the role can be told, once, in the order of its rows."""
    seen = dict.fromkeys(input_type for _phase, input_type in table.rows)
    return iter(seen)


def _cell(table: Table[S], phase: StrEnum, input_type: type[Input]) -> str:
    row: Row[S] | None = table.rows.get((phase, input_type))
    if row is None:
        return _REFUSED_BY_PEER if issubclass(input_type, PeerInput) else _REFUSED
    if row.leads_to == {phase}:
        return _IGNORED if row.passes_over else "stays"
    return " or ".join(after if after is not phase else "stays" for after in sorted(row.leads_to))
