"""Where commands write: results to standard output, progress and troubles to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPE_COLUMNS: Final = 240


@cache
def stdout() -> Console:
    """The console for results. Into a pipe, tables are as wide as they need."""
    return _console(width=None if sys.stdout.isatty() else PIPE_COLUMNS)


@cache
def stderr() -> Console:
    """The console for progress and troubles."""
    return _console(stderr=True)


def _console(**settings: Any) -> Console:
    """What is printed comes from logs and hosts: nothing in it is rich's to interpret, no ``:x:``
    of an address, no ``[/dev/nvidia0]``.
    """
    from rich.console import Console

    return Console(emoji=False, markup=False, highlight=False, **settings)


def print_json(value: Any) -> None:
    """Print one JSON document on one line."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_line(text: str) -> None:
    """Print one line as it is, however long."""
    stdout().print(text, soft_wrap=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> None:
    """Print a table, or ``empty`` if there are no rows."""
    table = plain_table(columns)
    for row in rows:
        table.add_row(*row)
    if table.row_count:
        stdout().print(table)
    else:
        print_line(empty)


def plain_table(columns: Sequence[str]) -> Table:
    """A table without lines. A column whose name begins with ``>`` is for numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        table.add_column(name.removeprefix(">"), justify="right" if name[0] == ">" else "left")
    return table


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and values below each other."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in facts:
        table.add_row(Text(name, style="dim"), Text(value))
    stdout().print(table)
