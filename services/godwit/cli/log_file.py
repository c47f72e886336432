"""Where a command reads from: the event log, or an exported log if a file is named."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from godwit.runtime.log_file import LogFile

from .connection import open_log

if TYPE_CHECKING:
    from godwit.runtime.event_log import LogReader

FromOption = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="Read this exported log instead of a live one; no cluster is needed.",
        show_default=False,
    ),
]


def open_source(
    directory: Path | None, file: Path | None
) -> AbstractAsyncContextManager[LogReader]:
    """The exported log if a file is named, else the event log. Raises as ``open_log``, and
    ``NotFoundError``, ``InvalidInputError``, ``CorruptError`` for a file that cannot be read.
    """
    return open_log(directory) if file is None else _open_file(file)


@asynccontextmanager
async def _open_file(file: Path) -> AsyncIterator[LogReader]:
    log = LogFile(file)
    log.head()
    yield log
