"""The event by which a writer signs its lane, and the bytes that the signature is made of.

A signature is the last field of the last field of an event's stored bytes: what is signed is all
that stands before it, with nothing encoded again. Knows no keys.
"""

from __future__ import annotations

from typing import ClassVar, Final

from .envelope import Event

SIGNATURE_BYTES: Final = 64
"""Of Ed25519."""
UNSIGNED: Final = bytes(SIGNATURE_BYTES)


class LaneSigned(Event, frozen=True, kw_only=True):
    """A writer's part in a migration is over: all that its lane holds up to here is its own.

    The Ed25519 ``signature`` is of this event's stored bytes before it, which hold the hash of the
    event before, and so of all. ``seen_digest``: over the migration's first ``seen_events`` events,
    of all lanes in the log's order, as the signer has read them (``replay.chains.note``).
    """

    TYPE: ClassVar[str] = "lane_signed"
    public_key: bytes
    seen_events: int = 0
    seen_digest: bytes = b""
    signature: bytes = UNSIGNED


def signed_part(data: bytes) -> bytes:
    """What of a ``LaneSigned`` event's stored bytes is signed."""
    return data[:-SIGNATURE_BYTES]


def with_signature(data: bytes, signature: bytes) -> bytes:
    """The stored bytes of a ``LaneSigned`` event with its signature put in."""
    assert len(signature) == SIGNATURE_BYTES
    return signed_part(data) + signature
