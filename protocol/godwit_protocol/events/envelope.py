"""The envelope around every event, and the chain that its lane forms.

Across hosts, order by stream sequence and causation, never by wall clock.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import ClassVar, Final

import msgspec

SCHEMA_VERSION: Final = 1
CHAIN_START: Final = b"\x00" * 32


class Lane(StrEnum):
    """Who writes. A lane's chain is kept per lane, ``host`` (the writer's name) and ``life``."""

    OPERATOR = "operator"
    COORDINATOR = "coordinator"
    SOURCE = "source"
    DESTINATION = "destination"
    TRACKER = "tracker"


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A fact, in the past tense. Subclasses name their ``TYPE``: envelope and subject carry it."""

    TYPE: ClassVar[str] = ""


class Envelope(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What every event carries. Times are nanoseconds; ``monotonic_ns`` counts within ``boot``.

    ``life`` tells the lives of a writer apart that keeps no journal: what one of them had on its
    way when it was killed may be stored after the next has written.
    """

    id: str
    type: str
    schema: int = SCHEMA_VERSION
    migration: str = ""
    machine: str = ""
    lane: Lane
    lane_sequence: int
    host: str
    epoch: int = 0
    correlation: str = ""
    causation: str = ""
    wall_ns: int
    monotonic_ns: int
    boot: str
    life: str = ""
    prev_hash: bytes
    body: msgspec.Raw


class UnknownEvent(Event, frozen=True, kw_only=True):
    """An event of a type, or of a later schema, that this version does not know; readable all the
    same.
    """

    fields: dict[str, object]


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """One decoded event with its envelope and, once it is in the log, its stream sequence."""

    envelope: Envelope
    event: Event
    sequence: int = 0


def stored_hash(data: bytes) -> bytes:
    """SHA-256 of an event's stored bytes: the next event of its lane carries it."""
    return hashlib.sha256(data).digest()
