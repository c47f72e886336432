"""The codec: what goes in comes out, plain msgpack reads it, broken bytes are one typed error."""

from __future__ import annotations

import itertools
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from godwit_protocol import codec, ledger, link, register
from godwit_protocol.errors import CorruptError, InvalidInputError, RemoteProtocolError
from godwit_protocol.events import EVENT_TYPES, Event, Lane, UnknownEvent, stored_hash
from godwit_protocol.events.migration import CancelRequested, MigrationRequested
from godwit_protocol.framing import CONTROL_PAYLOAD_BYTES_MAX
from structs_of import TEXT, enveloped, structs

EVENTS = st.one_of(*(structs(kind) for kind in EVENT_TYPES.values()))
LINK_MESSAGES = st.one_of(*(structs(kind) for kind in link.AnyLinkMessage.__args__))
DEEP = b"\x91" * 100_000 + b"\xc0"
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize("kind", EVENT_TYPES.values(), ids=EVENT_TYPES)
def test_every_event_type_comes_back_as_it_went(kind: type[Event]) -> None:
    @settings(max_examples=20, deadline=None)
    @given(event=structs(kind), sequence=st.integers(0, 2**53))
    def comes_back(event: Event, sequence: int) -> None:
        envelope = enveloped(event)
        recorded = codec.decode(codec.encode(envelope), sequence)
        assert recorded.event == event
        assert recorded.sequence == sequence
        assert recorded.envelope == envelope

    comes_back()


@settings(max_examples=100, deadline=None)
@given(EVENTS, st.sampled_from(Lane), st.binary(min_size=32, max_size=32))
def test_the_bytes_are_those_of_plain_msgpack(event: Event, lane: Lane, previous: bytes) -> None:
    data = codec.encode(enveloped(event, lane=lane, prev_hash=previous))
    as_map = msgpack.unpackb(data, use_list=False)
    assert msgpack.packb(as_map) == data
    assert as_map["type"] == event.TYPE
    assert as_map["body"] == msgspec.to_builtins(event, builtin_types=(bytes,))


@given(structs(MigrationRequested), st.dictionaries(TEXT, PLAIN, min_size=1))
def test_fields_of_the_future_are_passed_over(event: Event, more: dict[str, Any]) -> None:
    as_map = msgpack.unpackb(codec.encode(enveloped(event)))
    data = msgpack.packb({**more, **as_map, "body": {**more, **as_map["body"]}})
    assert codec.decode(data).event == event
    assert msgpack.unpackb(data)["body"].items() >= as_map["body"].items()


@given(st.dictionaries(TEXT, PLAIN), TEXT.filter(lambda name: name not in EVENT_TYPES))
def test_an_event_of_the_future_is_readable(fields: dict[str, Any], kind: str) -> None:
    body = msgspec.Raw(msgpack.packb(fields))
    recorded = codec.decode(codec.encode(enveloped(CancelRequested(), type=kind, body=body)))
    assert recorded.event == UnknownEvent(fields=fields)
    assert recorded.envelope.type == kind


DECODERS: dict[str, tuple[Any, type[Exception]]] = {
    "event": (codec.decode, CorruptError),
    "register": (register.decode, CorruptError),
    "claim": (register.decode_claim, CorruptError),
    "ledger": (ledger.decode_entry, CorruptError),
    "link": (link.decode, RemoteProtocolError),
}
VALID: dict[str, st.SearchStrategy[bytes]] = {
    "event": EVENTS.map(lambda event: codec.encode(enveloped(event))),
    "register": structs(register.RegisterRecord).map(register.encode),
    "claim": structs(register.Claim).map(register.encode_claim),
    "ledger": structs(ledger.LedgerEntry).map(ledger.encode_entry),
    "link": LINK_MESSAGES.map(link.encode),
}
each = pytest.mark.parametrize("what", DECODERS)


def reads_or_refuses(what: str, data: bytes) -> bool:
    """Whether it was read. Anything but the typed error goes on to the test."""
    decode, error = DECODERS[what]
    try:
        decode(data)
    except error as refusal:
        assert refusal.message
        return False
    return True


@each
def test_cut_bytes_are_refused(what: str) -> None:
    @settings(max_examples=40, deadline=None)
    @given(data=VALID[what], cut=st.integers(1, 2**16))
    def refused(data: bytes, cut: int) -> None:
        assert not reads_or_refuses(what, data[: -(cut % len(data) + 1)])

    refused()


@each
def test_trailing_bytes_are_refused(what: str) -> None:
    @settings(max_examples=20, deadline=None)
    @given(data=VALID[what], more=st.binary(min_size=1, max_size=4))
    def refused(data: bytes, more: bytes) -> None:
        assert not reads_or_refuses(what, data + more)

    refused()


@each
def test_random_and_damaged_bytes_never_raise_anything_else(what: str) -> None:
    @settings(max_examples=60, deadline=None)
    @given(
        noise=st.binary(max_size=64), data=VALID[what], at=st.integers(0), byte=st.integers(0, 255)
    )
    @example(noise=b"\xdd\xff\xff\xff\xff", data=b"\xc1", at=0, byte=0)
    @example(noise=b"\xa1\xff", data=b"\x81\xa1\xff\x01", at=0, byte=0x81)
    @example(noise=b"\xc7\x0c\xff" + b"\xff" * 12, data=b"\xc1", at=0, byte=0xC1)
    def typed(noise: bytes, data: bytes, at: int, byte: int) -> None:
        reads_or_refuses(what, noise)
        damaged = bytearray(data)
        damaged[at % len(data)] = byte
        reads_or_refuses(what, bytes(damaged))

    typed()


@each
def test_maps_of_wrong_types_are_refused(what: str) -> None:
    @settings(max_examples=40, deadline=None)
    @given(data=VALID[what], wrong=PLAIN, pick=st.integers(0))
    def typed(data: bytes, wrong: Any, pick: int) -> None:
        as_map = msgpack.unpackb(data)
        as_map[sorted(as_map)[pick % len(as_map)]] = wrong
        reads_or_refuses(what, msgpack.packb(as_map))
        assert not reads_or_refuses(what, msgpack.packb([as_map]))

    typed()


@each
@pytest.mark.parametrize("key", ["later", "body"])
def test_deep_nesting_is_refused_not_a_crash(what: str, key: str) -> None:
    deep = b"\x81" + msgpack.packb(key) + DEEP
    assert not reads_or_refuses(what, deep)
    assert not reads_or_refuses(what, DEEP)


@pytest.mark.parametrize(
    ("what", "bytes_max"),
    [
        ("event", codec.EVENT_BYTES_MAX),
        ("register", register.RECORD_BYTES_MAX),
        ("claim", register.RECORD_BYTES_MAX),
        ("ledger", ledger.ENTRY_BYTES_MAX),
        ("link", CONTROL_PAYLOAD_BYTES_MAX),
    ],
)
def test_oversized_bytes_are_refused_unread(what: str, bytes_max: int) -> None:
    decode, error = DECODERS[what]
    with pytest.raises(error, match="limit"):
        decode(b"\x00" * (bytes_max + 1))


def test_an_oversized_event_is_not_written() -> None:
    event = CancelRequested(requested_by="x" * codec.EVENT_BYTES_MAX)
    with pytest.raises(InvalidInputError, match="cancel_requested"):
        codec.encode(enveloped(event))


@given(structs(ledger.LedgerEntry))
def test_a_refusal_in_the_ledger_says_why_and_nothing_else_does(entry: ledger.LedgerEntry) -> None:
    says_why = entry.kind in (ledger.EntryKind.REFUSED, ledger.EntryKind.EXPIRED)
    whole = says_why == (entry.refusal is not None)
    assert reads_or_refuses("ledger", ledger.encode_entry(entry)) == whole


@given(structs(register.RegisterRecord), structs(register.Claim), LINK_MESSAGES)
def test_the_other_records_come_back_as_they_went(
    record: register.RegisterRecord, claim: register.Claim, message: link.LinkMessage
) -> None:
    assert register.decode(register.encode(record)) == record
    assert register.decode_claim(register.encode_claim(claim)) == claim
    assert link.decode(link.encode(message)) == message


@given(st.lists(EVENTS, min_size=2, max_size=4))
def test_a_lane_is_a_chain_of_stored_bytes(events: list[Event]) -> None:
    previous, stored = b"\x00" * 32, []
    for event in events:
        stored.append(codec.encode(enveloped(event, prev_hash=previous)))
        previous = stored_hash(stored[-1])
    for data, following in itertools.pairwise(stored):
        assert codec.decode(following).envelope.prev_hash == stored_hash(data)
        assert stored_hash(data) != stored_hash(data + b"\x00")
        assert len(stored_hash(data)) == 32
