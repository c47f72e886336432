"""CloudEvents headers: they say what the envelope says."""

from __future__ import annotations

from datetime import datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from godwit_protocol import cloudevents, codec
from godwit_protocol.errors import CorruptError
from godwit_protocol.events import Event
from godwit_protocol.events.machine import MachineStopRequested
from godwit_protocol.events.migration import CancelRequested
from structs_of import enveloped, structs


@settings(max_examples=30, deadline=None)
@given(structs(CancelRequested), st.integers(0, 2**62))
def test_headers_repeat_the_envelope(event: Event, wall_ns: int) -> None:
    envelope = msgspec.structs.replace(enveloped(event), wall_ns=wall_ns, migration="m1")
    found = cloudevents.headers_of(codec.encode(envelope))
    assert found["ce-specversion"] == "1.0"
    assert found["ce-type"] == "godwit.v1.cancel_requested"
    assert found["ce-id"] == envelope.id
    assert found["ce-source"] == f"/godwit/{envelope.lane}/{envelope.host}"
    assert found["ce-subject"] == "migration/m1"
    assert found["content-type"] == "application/msgpack"
    seconds, _, rest = found["ce-time"].removesuffix("Z").partition(".")
    at_s = datetime.fromisoformat(f"{seconds}+00:00").timestamp()
    assert int(at_s) * 10**9 + int(rest) == wall_ns


@pytest.mark.parametrize(
    ("migration", "machine", "subject"),
    [("x", "m", "migration/x"), ("", "m", "machine/m"), ("", "", "host/host-1")],
)
def test_a_subject_is_what_the_event_is_about(migration: str, machine: str, subject: str) -> None:
    envelope = msgspec.structs.replace(
        enveloped(MachineStopRequested(stop="s")),
        migration=migration,
        machine=machine,
        host="host-1",
    )
    assert cloudevents.subject(envelope) == subject


def test_what_is_no_event_has_no_headers() -> None:
    with pytest.raises(CorruptError):
        cloudevents.headers_of(b"\xc1")
