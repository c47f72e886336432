"""Migrations that have gone to an archive, as the server still knows them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import msgspec

from godwit_protocol import subjects
from godwit_protocol.errors import InvalidInputError, NotFoundError, UnreachableError
from godwit_protocol.replay.archived import Archived, decode

from . import reading
from .figures import count, day_and_clock
from .narrative import reason

if TYPE_CHECKING:
    from godwit.runtime.event_log import LogReader


class ArchivedError(NotFoundError):
    """The migration has left the server. ``gone``: what is known of it, and where it is."""

    def __init__(self, gone: Archived) -> None:
        super().__init__(
            f"migration {gone.migration} has gone to the archive: {gone.path} on {gone.kept_on}",
            hint=f"there: {replayed_by(gone)}",
        )
        self.gone = gone


async def find_archived(log: LogReader, part: str) -> list[Archived]:
    """The archived migrations whose id begins or ends with ``part``; none from a log that does not
    say: a file, a server of before, a user who may not ask.
    """
    found: dict[str, Archived] = {}
    with suppress(InvalidInputError, UnreachableError):
        async for stored in reading.messages(log, [subjects.archived("*")]):
            gone = decode(stored.data)
            if gone.migration.startswith(part) or gone.migration.endswith(part):
                found[gone.migration] = gone
    return list(found.values())


def replayed_by(gone: Archived) -> str:
    """The command that tells its story."""
    directory = PurePath(gone.path).parent
    return f"godwit replay timeline {gone.migration} --from {directory}"


def facts(gone: Archived) -> list[tuple[str, str]]:
    """What ``migration show`` prints of it."""
    return [
        ("migration", gone.migration),
        ("machine", gone.machine),
        ("outcome", reason(gone.outcome)),
        ("ended", day_and_clock(gone.ended_ns)),
        ("archived", f"{day_and_clock(gone.archived_ns)}: {count(gone.events, 'event')}"),
        ("it is in", f"{gone.path} on {gone.kept_on}"),
        ("show it there", replayed_by(gone)),
    ]


def as_json(gone: Archived) -> dict[str, Any]:
    """The object that ``--json`` prints of it."""
    told: dict[str, Any] = msgspec.to_builtins(gone)
    return {"id": told.pop("migration"), **told}
