"""What was written under another version of the schema is never taken for today's."""

from functools import partial

import msgpack
import msgspec
import pytest

from godwit_protocol import codec
from godwit_protocol.errors import CorruptError
from godwit_protocol.events import SCHEMA_VERSION, UnknownEvent
from godwit_protocol.events.migration import CancelRequested, MachineReleased
from godwit_protocol.upcasting import UPCASTERS, Fields, upcast
from structs_of import enveloped

NOW = 3
"""As if there had been so many versions."""


def asker_was_a_pair(fields: Fields) -> Fields:
    user, host = fields["asked_by"]  # type: ignore[misc]
    return {"asked_by": f"{user}@{host}"}


def asker_had_another_name(fields: Fields) -> Fields:
    return {"requested_by": fields["asked_by"]}


TABLE = {
    ("cancel_requested", 1): asker_was_a_pair,
    ("cancel_requested", 2): asker_had_another_name,
}


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that knows two more versions than there are."""
    monkeypatch.setattr(codec, "SCHEMA_VERSION", NOW)
    monkeypatch.setattr(codec, "upcast", partial(upcast, upcasters=TABLE))


def stored(schema: int, **fields: object) -> bytes:
    body = msgspec.Raw(msgpack.packb(fields))
    return codec.encode(enveloped(CancelRequested(), schema=schema, body=body))


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize(
    "data",
    [
        stored(1, asked_by=("ada", "desk")),
        stored(2, asked_by="ada@desk"),
        stored(3, requested_by="ada@desk"),
    ],
)
def test_an_old_event_is_read_as_today_s_through_all_versions_between(data: bytes) -> None:
    recorded = codec.decode(data, 7)
    assert recorded.event == CancelRequested(requested_by="ada@desk")
    assert recorded.sequence == 7
    assert codec.encode(recorded.envelope) == data


@pytest.mark.usefixtures("later")
def test_an_event_that_no_version_changed_is_read_as_it_stands() -> None:
    released = MachineReleased()
    assert codec.decode(codec.encode(enveloped(released, schema=1))).event == released


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("fields", [{}, {"asked_by": 7}, {"asked_by": "a"}])
def test_fields_that_an_upcaster_cannot_read_are_corrupt(fields: Fields) -> None:
    with pytest.raises(CorruptError, match="of schema version 1 cannot be read"):
        codec.decode(stored(1, **fields))


@pytest.mark.usefixtures("later")
def test_what_comes_out_of_an_upcaster_is_judged_as_what_is_stored() -> None:
    with pytest.raises(CorruptError, match="at sequence 7 cannot be read"):
        codec.decode(stored(2, asked_by=8), 7)


@pytest.mark.parametrize("schema", [SCHEMA_VERSION + 1, 2**63])
def test_an_event_of_a_later_version_can_be_shown_and_is_none_of_ours(schema: int) -> None:
    recorded = codec.decode(stored(schema, requested_by=("ada", "desk"), why="late"))
    assert recorded.event == UnknownEvent(fields={"requested_by": ["ada", "desk"], "why": "late"})
    assert (recorded.envelope.type, recorded.envelope.schema) == ("cancel_requested", schema)


@pytest.mark.parametrize("schema", [0, -(2**63)])
def test_a_version_that_never_was_is_corrupt(schema: int) -> None:
    with pytest.raises(CorruptError, match=f"version {schema}, which never was"):
        codec.decode(stored(schema, requested_by="ada@desk"))


def test_each_upcaster_is_of_an_event_of_a_former_version() -> None:
    known = {(kind, version) for kind in codec.EVENT_TYPES for version in range(1, SCHEMA_VERSION)}
    assert UPCASTERS.keys() <= known
