"""What the server still knows of a migration that has left it for an archive. Pure."""

from __future__ import annotations

import msgspec

from ..errors import CorruptError
from ..events.migration import Outcome
from .retention import Manifest


class Archived(msgspec.Struct, frozen=True, kw_only=True):
    """A migration that has gone. Times are wall clocks in ns: the server's of its end, and the
    archiving command's. ``path``: of its file, on the machine ``kept_on``; ``digest``: over its
    events, as ``replay export`` prints it.
    """

    migration: str
    machine: str
    outcome: Outcome
    ended_ns: int
    archived_ns: int
    events: int
    digest: str
    kept_on: str
    path: str


def archived(described: Manifest, archived_ns: int, kept_on: str, path: str) -> Archived:
    """What is left on the server of what an archive describes so."""
    return Archived(
        migration=described.migration,
        machine=described.machine,
        outcome=described.outcome,
        ended_ns=described.ended_ns,
        archived_ns=archived_ns,
        events=described.events,
        digest=described.digest,
        kept_on=kept_on,
        path=path,
    )


def encode(gone: Archived) -> bytes:
    """Return a message's data."""
    return msgspec.msgpack.encode(gone)


def decode(data: bytes) -> Archived:
    """Return what a message holds. Raises ``CorruptError``."""
    try:
        return msgspec.msgpack.decode(data, type=Archived)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptError(f"what is said of an archived migration is wrong: {error}") from error
