"""An event's headers as CloudEvents has them, in binary mode, for tools that know no Godwit. Pure.

The stored bytes stay what they are. Headers repeat what the envelope says, and nothing is decided
by them: the envelope is what the hashes cover.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from . import codec
from .events import Envelope

SPEC_VERSION: Final = "1.0"
CONTENT_TYPE: Final = "application/msgpack"
TYPE_PREFIX: Final = "godwit.v1."
CAUSE: Final = "ce-causationid"
"""The id of the event that it came from. Where a host heard of that by the direct link, before it
was in the log, only this header tells."""


def headers_of(data: bytes) -> Mapping[str, str]:
    """The headers of a stored event. Raises ``CorruptError`` if ``data`` is none."""
    return headers(codec.decode(data).envelope)


def headers(envelope: Envelope) -> Mapping[str, str]:
    """The headers of an event: ``ce-…`` as the NATS binding of CloudEvents 1.0.2 names them."""
    told = {
        "ce-specversion": SPEC_VERSION,
        "ce-type": TYPE_PREFIX + envelope.type,
        "ce-source": f"/godwit/{envelope.lane}/{envelope.host}",
        "ce-id": envelope.id,
        "ce-time": rfc3339(envelope.wall_ns),
        "ce-subject": subject(envelope),
        "content-type": CONTENT_TYPE,
    }
    return {**told, CAUSE: envelope.causation} if envelope.causation else told


def subject(envelope: Envelope) -> str:
    """What the event is about: a migration, a machine, or the host that wrote it."""
    if envelope.migration:
        return f"migration/{envelope.migration}"
    return f"machine/{envelope.machine}" if envelope.machine else f"host/{envelope.host}"


def rfc3339(wall_ns: int) -> str:
    """UTC, to the nanosecond: ``2026-11-22T20:15:30.123456789Z``."""
    seconds, nanoseconds = divmod(wall_ns, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"
