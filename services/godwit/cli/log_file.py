"""Where a command reads from: the event log, or an exported log or an archive if one is named."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from godwit.archive.reading import ArchivedLog
from godwit.archive.store import Store
from godwit.runtime.files import is_directory
from godwit.runtime.log_file import LogFile
from godwit_protocol.errors import NotFoundError

from .connection import open_log

if TYPE_CHECKING:
    from godwit.runtime.event_log import LogReader

FromOption = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="PATH",
        help="Read this exported log, or archive, instead of a live one; no cluster is needed.",
        show_default=False,
    ),
]


def open_source(
    directory: Path | None, file: Path | None
) -> AbstractAsyncContextManager[LogReader]:
    """The exported log or archive if one is named, else the event log. Raises as ``open_log``, and
    ``NotFoundError``, ``InvalidInputError``, ``CorruptError`` for a file that cannot be read.
    """
    if file is None:
        return open_log(directory)
    return _open_archive(file) if is_directory(file) else _open_file(file)


@asynccontextmanager
async def _open_file(file: Path) -> AsyncIterator[LogReader]:
    log = LogFile(file)
    log.head()
    yield log


@asynccontextmanager
async def _open_archive(directory: Path) -> AsyncIterator[LogReader]:
    store = Store(directory)
    if not store.ids():  # of any other directory, verification would find that nothing is wrong
        raise NotFoundError(f"no migration is archived in {directory}")
    yield ArchivedLog(store)
