"""Puts the tables of a bench into docs/performance.md, each between its two marks.

    python bench/tables.py [RESULTS]

A table stands between ``<!-- bench: NAME -->`` and ``<!-- end of bench -->``. What is around it is
for people to write: what was predicted, and what limits it now.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection
from pathlib import Path

import records

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "docs" / "performance.md"
_TABLE = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end of bench -->)", re.DOTALL)


def write(results: Path, names: Collection[str] | None = None, page: Path = PAGE) -> None:
    """Renew each table of which there is a record, or those of them that are named."""
    page.write_text(renewed(page.read_text(), results, names))


def renewed(text: str, results: Path, names: Collection[str] | None = None) -> str:
    """The page with its tables renewed; the others stay."""

    def table(found: re.Match[str]) -> str:
        path = results / f"{found[2]}.json"
        if not path.exists() or (names is not None and found[2] not in names):
            return found[0]
        return f"{found[1]}{records.markdown(json.loads(path.read_text()))}\n{found[3]}"

    return _TABLE.sub(table, text)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER / "results")
