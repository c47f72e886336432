"""What the commands under ``godwit replay`` are given, and how they find a migration's messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from godwit.pictures import reading
from godwit_protocol import subjects

from . import completion

if TYPE_CHECKING:
    from godwit.runtime.event_log import LogReader
    from godwit_protocol.stored import Stored

IdArgument = Annotated[
    str,
    typer.Argument(
        metavar="[ID]",
        help="The migration; part of its id will do.",
        autocompletion=completion.migrations,
        show_default=False,
    ),
]
AllOption = Annotated[bool, typer.Option("--all", help="Every migration of the log.")]


async def messages_of(log: LogReader, migration: str) -> list[Stored]:
    """All messages of a migration, in the log's order. Raises ``UnreachableError``."""
    filters = subjects.whole_migration(migration)
    return [stored async for stored in reading.messages(log, filters)]
