"""Strategies for the protocol's structs, derived from their fields, so that none is forgotten."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from hypothesis import strategies as st

from godwit_protocol import codec
from godwit_protocol.events import CHAIN_START, Envelope, Event, Lane

COUNT = st.integers(0, 2**63 - 1)
TEXT = st.text(max_size=12)

_LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    int: COUNT,
    float: st.floats(allow_nan=False),
    str: TEXT,
    bytes: st.binary(max_size=16),
    bool: st.booleans(),
}


@cache
def structs(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Any instance of the struct ``kind``."""
    found = {info.name: _values(info.type) for info in msgspec.structs.fields(kind)}
    return st.builds(kind, **found)


def _values(annotation: Any) -> st.SearchStrategy[Any]:
    if annotation in _LEAVES:
        return _LEAVES[annotation]
    for bounds in getattr(annotation, "__metadata__", ()):
        return st.integers(bounds.ge, bounds.le if bounds.lt is None else bounds.lt - 1)
    origin, arguments = getattr(annotation, "__origin__", None), getattr(annotation, "__args__", ())
    if origin is tuple:
        return st.lists(_values(arguments[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(_values(arguments[0]), _values(arguments[1]), max_size=3)
    if arguments:
        return st.one_of(*(_values(each) for each in arguments))
    if annotation is type(None):
        return st.none()
    if issubclass(annotation, msgspec.Struct):
        return structs(annotation)
    return st.sampled_from(annotation)


def enveloped(event: Event, **changes: Any) -> Envelope:
    """The event in an envelope that is plain but for ``changes``."""
    plain: dict[str, Any] = {
        "id": "00e8d4a5-1000-7000-8000-00000000004d",
        "type": event.TYPE,
        "lane": Lane.SOURCE,
        "lane_sequence": 1,
        "host": "host-1",
        "wall_ns": 1,
        "monotonic_ns": 2,
        "boot": "boot",
        "prev_hash": CHAIN_START,
        "body": codec.encode_body(event),
    }
    return Envelope(**{**plain, **changes})
