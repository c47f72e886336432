"""Events: facts in the past tense, one frozen struct each, found by the type in their envelope."""

from __future__ import annotations

from typing import Final

from . import bandwidth, estimate, loss, machine, migration, reservation, signed
from .envelope import (
    CHAIN_START,
    SCHEMA_VERSION,
    Envelope,
    Event,
    Lane,
    Recorded,
    UnknownEvent,
    stored_hash,
)

EVENT_TYPES: Final[dict[str, type[Event]]] = {
    cls.TYPE: cls
    for module in (migration, reservation, bandwidth, loss, machine, estimate, signed)
    for cls in vars(module).values()
    if isinstance(cls, type) and issubclass(cls, Event) and cls.TYPE
}

__all__ = [
    "CHAIN_START",
    "EVENT_TYPES",
    "SCHEMA_VERSION",
    "Envelope",
    "Event",
    "Lane",
    "Recorded",
    "UnknownEvent",
    "stored_hash",
]
