"""Which migrations may leave the server, and what an archive says of one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

import msgspec

from .. import codec
from ..errors import CorruptError
from ..events import Lane
from ..events import migration as ev
from ..events.migration import Outcome
from ..stored import Stored
from .chains import Noted
from .findings import Verification
from .last_signature import awaited
from .stories import migration_of


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What stays on the server: what ended less than ``older_than_ns`` ago by the server's clock,
    and the ``keep`` that ended last. ``unsigned``: also what is not signed to its end may leave.
    """

    older_than_ns: int
    keep: int = 0
    unsigned: bool = False


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """A migration whose end stands on the server, and when it was stored there."""

    migration: str
    time_ns: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive says of one migration. ``file_sha256``: of the file's bytes, hexadecimal;
    ``digest``: over its events, as ``replay export`` prints it.
    """

    migration: str
    machine: str
    outcome: Outcome
    ended_ns: int
    events: int
    first_sequence: int
    last_sequence: int
    digest: str
    file_bytes: int
    file_sha256: str
    proven: tuple[str, ...]
    unproven: tuple[str, ...]


def due(ended: Iterable[Ended], policy: Policy, now_ns: int) -> list[str]:
    """The migrations that the policy wants to leave, the oldest first."""
    oldest_first = sorted(ended, key=lambda each: each.time_ns)
    leaving = oldest_first[: max(len(oldest_first) - policy.keep, 0)]
    until_ns = now_ns - policy.older_than_ns
    return [each.migration for each in leaving if each.time_ns <= until_ns]


def objection(
    messages: Sequence[Stored],
    verified: Verification,
    policy: Policy,
    *,
    holds: bool,
    claims: bool = False,
    unknown_claims: AbstractSet[str] = frozenset(),
) -> str:
    """Why a migration must stay on the server; nothing if it may leave. ``holds``: its reservation
    stands in a ledger, and the tracker asks its events whether that is used. ``claims``: its
    machine's claim names it, and its end tells coordinators that it is as good as free.
    ``unknown_claims``: machines whose claim cannot be read, and so may name it.
    """
    if verified.faults:
        return f"it does not verify: {verified.faults[0]}"
    if holds:
        return "its reservation is in use"
    if claims:
        return "its machine's claim still names it"
    if unknown_claims and _machine(messages) in unknown_claims:
        return "its machine's claim cannot be read"
    if policy.unsigned:
        return ""
    return _unfinished(messages)


def _machine(messages: Sequence[Stored]) -> str:
    return codec.decode(messages[0].data, messages[0].sequence).envelope.machine


def _unfinished(messages: Sequence[Stored]) -> str:
    """A host that has not signed may still hold a journal, and hand its events to the log: again,
    or for the first time, if it was told of the migration and has said nothing yet.
    """
    story = [codec.decode(message.data, message.sequence) for message in messages]
    for lane, writer in sorted(awaited(story)):
        if lane in (Lane.SOURCE, Lane.DESTINATION):
            return f"{lane}/{writer} has not signed its end: it may hold more of it"
    return ""


def manifest(
    messages: Sequence[Stored],
    verified: Verification,
    noted: Noted,
    *,
    file_bytes: int,
    file_sha256: str,
) -> Manifest:
    """What an archive is to say of a migration that has ended. Raises ``CorruptError`` if it has
    not.
    """
    decoded = [(each, codec.decode(each.data, each.sequence)) for each in messages]
    ends = (
        (each.time_ns, recorded.event)
        for each, recorded in decoded
        if isinstance(recorded.event, ev.MigrationEnded)
    )
    ended_ns, end = next(ends, (0, None))
    if end is None:
        raise CorruptError("its log does not hold a migration's end")
    return Manifest(
        migration=verified.migration,
        machine=decoded[0][1].envelope.machine,
        outcome=end.outcome,
        ended_ns=ended_ns,
        events=len(messages),
        first_sequence=messages[0].sequence,
        last_sequence=messages[-1].sequence,
        digest=str(noted),
        file_bytes=file_bytes,
        file_sha256=file_sha256,
        proven=verified.proven,
        unproven=verified.unproven,
    )


def differing(
    described: Manifest,
    messages: Sequence[Stored],
    noted: Noted,
    *,
    file_bytes: int,
    file_sha256: str,
) -> list[str]:
    """What a manifest says otherwise than its log, by name. What was proven is not compared: other
    releases prove more or less, and so do other keys. Raises as ``manifest``.
    """
    as_proven = Verification(
        migration=migration_of(messages[0].subject) if messages else "",
        events=len(messages),
        proven=described.proven,
        unproven=described.unproven,
        faults=(),
    )
    told = manifest(messages, as_proven, noted, file_bytes=file_bytes, file_sha256=file_sha256)
    names = described.__struct_fields__
    return [name for name in names if getattr(described, name) != getattr(told, name)]
