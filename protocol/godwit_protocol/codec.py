"""Events to MessagePack and back. Tolerant of what is newer, strict about what is broken.

The bytes equal what plain ``msgpack`` would write for the same map, so that any tool can read them.
Anything that is not an event raises ``CorruptError``; nothing that comes over the wire can raise
anything else.
"""

from __future__ import annotations

from typing import Final

import msgspec

from .errors import CorruptError, InvalidInputError
from .events import EVENT_TYPES, SCHEMA_VERSION, Envelope, Event, Recorded, UnknownEvent
from .unpacking import UNREADABLE
from .upcasting import upcast

EVENT_BYTES_MAX: Final = 1024 * 1024

_encoder: Final = msgspec.msgpack.Encoder()
_envelope_decoder: Final = msgspec.msgpack.Decoder(Envelope)
_body_decoders: Final = {
    name: msgspec.msgpack.Decoder(event_type) for name, event_type in EVENT_TYPES.items()
}
_unknown_decoder: Final = msgspec.msgpack.Decoder(dict[str, object])


def encode_body(event: Event) -> msgspec.Raw:
    """Return the event's own map, to be put into an envelope."""
    return msgspec.Raw(_encoder.encode(event))


def encode(envelope: Envelope) -> bytes:
    """Return the stored form. Raises ``InvalidInputError`` if it is over 1 MiB."""
    data = _encoder.encode(envelope)
    if len(data) > EVENT_BYTES_MAX:
        raise InvalidInputError(
            f"event {envelope.type} has {len(data)} bytes, the limit is {EVENT_BYTES_MAX}"
        )
    return data


def decode(data: bytes, sequence: int = 0) -> Recorded:
    """Return the event in ``data``, stored at ``sequence``.

    Unknown fields are passed over; an unknown type gives an ``UnknownEvent``, and so does a later
    schema version, whose fields may not mean what they do in this one. The envelope tells the
    version that is stored. Raises ``CorruptError`` for anything else.
    """
    if len(data) > EVENT_BYTES_MAX:
        raise CorruptError(
            f"the event at sequence {sequence} has {len(data)} bytes, the limit is"
            f" {EVENT_BYTES_MAX}"
        )
    try:
        envelope = _envelope_decoder.decode(data)
        decoder = _body_decoders.get(envelope.type)
        if decoder is not None and envelope.schema == SCHEMA_VERSION:
            return Recorded(envelope, decoder.decode(envelope.body), sequence)
        fields = _unknown_decoder.decode(envelope.body)
        if decoder is None or envelope.schema > SCHEMA_VERSION:
            return Recorded(envelope, UnknownEvent(fields=fields), sequence)
        fields = upcast(envelope.type, fields, written_in=envelope.schema, read_in=SCHEMA_VERSION)
        return Recorded(envelope, decoder.decode(_encoder.encode(fields)), sequence)
    except UNREADABLE as error:
        raise CorruptError(f"the event at sequence {sequence} cannot be read: {error}") from error
