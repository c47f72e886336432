"""``godwit estimates``: each completed migration's estimate beside what it took."""

from __future__ import annotations

from collections.abc import Sequence

from godwit.pictures.estimates import ComparedMove, compared_moves
from godwit.pictures.figures import duration, short_id

from . import output
from .connection import DirectoryOption, JsonOption, open_log, run


def estimates(directory: DirectoryOption = None, as_json: JsonOption = False) -> None:
    """Show how good the estimates were: of each completed migration, expected and actual stun."""

    async def work() -> list[ComparedMove]:
        async with open_log(directory) as log:
            return await compared_moves(log)

    moves = run(work())
    if as_json:
        output.print_json([move.as_json() for move in moves])
        return
    columns = ("ID", "MACHINE", ">STUN", ">MEDIAN", ">BOUND", "WITHIN", ">TOOK", ">MEDIAN")
    empty = "no migration with an estimate has completed"
    output.print_table(columns, [_row(move) for move in moves], empty)
    if moves:
        within = sum(move.compared.within for move in moves)
        output.print_line(f"{within} of {len(moves)} stuns kept their bound")


def _row(move: ComparedMove) -> Sequence[str]:
    told = move.compared
    expected = told.estimate
    return (
        short_id(move.migration),
        move.machine,
        duration(told.stun_ns),
        duration(expected.stun_ns.median),
        duration(expected.stun_ns.bound),
        "yes" if told.within else "no",
        duration(told.total_ns),
        duration(expected.total_ns.median),
    )
