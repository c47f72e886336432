"""The chains of a log's lanes: gaps, doubles, and events that are not what their lane says. Pure.

In each lane of each writer the sequence counts from 1 without a gap or a double, and each event
carries the hash of the stored bytes of the one before. A chain proves all of its events but the
last; whoever noted a digest of all of them elsewhere has that one too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..errors import InvalidInputError
from ..events import CHAIN_START, Envelope, stored_hash
from ..stored import MESSAGE_ID_HEADER, Stored
from .findings import Fault


class LaneKey(NamedTuple):
    """Whose chain: of which scope (migration, machine or host), in which lane, by which writer,
    in which of its lives.
    """

    scope: str
    lane: str
    writer: str
    life: str

    def __str__(self) -> str:
        return "/".join(filter(None, self))


class LaneHead(NamedTuple):
    """The end of a chain: the last event's number in its lane, and the hash of its bytes."""

    sequence: int
    hash: bytes


class Chains:
    """Takes the events of one stream in its order; each may have faults."""

    def __init__(self) -> None:
        self.heads: dict[LaneKey, LaneHead] = {}
        self._ids: set[str] = set()
        self._last_sequence = 0

    def take(self, message: Stored, envelope: Envelope) -> Iterator[Fault]:
        """What is wrong with the next event."""
        sequence = message.sequence
        if sequence <= self._last_sequence:
            yield Fault(sequence, f"{envelope.type} comes after {self._last_sequence}")
        self._last_sequence = sequence
        yield from self._of_lane(message, envelope)
        if envelope.id in self._ids:
            yield Fault(sequence, f"the id of {envelope.type} stands twice")
        self._ids.add(envelope.id)
        yield from _faults_of_place(message, envelope)

    def _of_lane(self, message: Stored, envelope: Envelope) -> Iterator[Fault]:
        key = LaneKey(envelope.correlation, envelope.lane, envelope.host, envelope.life)
        last = self.heads.get(key, LaneHead(0, CHAIN_START))
        where, number = f"{key} ({envelope.type})", envelope.lane_sequence
        if number != last.sequence + 1:
            yield Fault(message.sequence, f"{where}: number {number} comes after {last.sequence}")
        elif envelope.prev_hash != last.hash:
            yield Fault(message.sequence, f"{where}: does not carry the hash of the event before")
        self.heads[key] = LaneHead(number, stored_hash(message.data))


def _faults_of_place(message: Stored, envelope: Envelope) -> Iterator[Fault]:
    """What an event's subject and message id say otherwise than its envelope."""
    tokens = message.subject.split(".")
    scope_at = 5 if tokens[2] == "host" else 2
    is_inventory = tokens[2] == "inventory"
    told = tuple(tokens[2:4] if is_inventory else tokens[scope_at:])
    kind = "migration" if envelope.migration else "machine"
    meant = (kind, envelope.correlation, envelope.lane.value, envelope.type)
    if told != (("inventory", envelope.correlation) if is_inventory else meant):
        yield Fault(message.sequence, f"{envelope.type} stands at {message.subject}")
    if envelope.migration not in ("", envelope.correlation):
        yield Fault(message.sequence, f"is of {envelope.migration}, in {envelope.correlation}")
    told_id = message.headers.get(MESSAGE_ID_HEADER, envelope.id)
    # A machine's lane has a writer in each life of its host: there the place in it is the id.
    place = "/".join((*meant[:3], envelope.host, str(envelope.lane_sequence)))
    if told_id not in (envelope.id, place):
        yield Fault(message.sequence, f"event {envelope.id} was stored as message {told_id}")


class Noted(NamedTuple):
    """What somebody noted of a migration elsewhere: a hash over its first ``events`` events."""

    events: int
    digest: bytes

    def __str__(self) -> str:
        return f"{self.events}:{self.digest.hex()}"


def parse_noted(text: str) -> Noted:
    """Read what ``str`` of it gave. Raises ``InvalidInputError``."""
    events, _, digest = text.partition(":")
    try:
        noted = Noted(int(events), bytes.fromhex(digest))
    except ValueError:
        noted = Noted(0, b"")
    if noted.events <= 0 or len(noted.digest) != len(CHAIN_START):
        raise InvalidInputError(
            f"{text!r} is no digest", hint="'godwit replay export' prints it, such as 17:6f0e…"
        )
    return noted


def note(messages: Sequence[Stored], events: int | None = None) -> Noted:
    """A hash over the first ``events`` events (None: all) in their order, whoever wrote them, with
    the subjects that they stand at.
    """
    noted = messages[:events]
    digest = CHAIN_START
    for message in noted:
        digest = digest_after(digest, message)
    return Noted(len(noted), digest)


def digest_after(digest: bytes, message: Stored) -> bytes:
    """The hash over one more message, after that over those before (``CHAIN_START``: none)."""
    name = message.subject.encode()
    head = digest + len(name).to_bytes(4, "little") + name
    return hashlib.sha256(head + stored_hash(message.data)).digest()
