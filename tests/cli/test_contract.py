"""The generated contract: it is what JSON Schema and AsyncAPI say, and real events keep it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator

from godwit.documents.contract import asyncapi, event_schemas
from godwit.documents.event_writers import LANES
from godwit_protocol import codec, subjects
from godwit_protocol.events import EVENT_TYPES, Event
from structs_of import enveloped, structs

EVENTS_PAGE = Path(__file__).parents[2] / "docs/generated/events.md"
ASYNCAPI = Path(__file__).parents[1] / "support/asyncapi-3.0.0.schema.json"
SCHEMAS = event_schemas()
DOCUMENT = asyncapi()


def as_json(value: Any) -> Any:
    """An unpacked event as JSON would have it."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def validator(event_type: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/$defs/{event_type}", "$defs": SCHEMAS["$defs"]})


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (item for key, item in value.items() if key == "$ref")
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


@pytest.mark.parametrize("kind", EVENT_TYPES.values(), ids=EVENT_TYPES)
def test_every_event_keeps_its_schema_and_a_broken_one_does_not(kind: type[Event]) -> None:
    checks = validator(kind.TYPE)

    @settings(max_examples=5, deadline=None)
    @given(structs(kind))
    def keeps(event: Event) -> None:
        told = as_json(msgpack.unpackb(codec.encode(enveloped(event))))
        checks.validate(told)
        assert not checks.is_valid(told | {"type": "another"})
        assert not checks.is_valid({key: told[key] for key in told if key != "prev_hash"})

    keeps()


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_the_page_tells_of_every_event_once(event_type: str) -> None:
    assert EVENTS_PAGE.read_text(encoding="utf-8").count(f"\n### `{event_type}`\n") == 1


@settings(max_examples=5, deadline=None)
@given(st.sampled_from(sorted(EVENT_TYPES)))
def test_schemas_are_schemas(event_type: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS["$defs"][event_type])


@pytest.mark.parametrize("document", [SCHEMAS, DOCUMENT], ids=["schemas", "asyncapi"])
def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    found = set(references(document))
    assert found
    for reference in found:
        target: Any = document
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]


def test_a_channel_is_the_subject_that_events_have() -> None:
    channels = DOCUMENT["channels"]
    assert channels.keys() == EVENT_TYPES.keys()
    for event_type, kind in EVENT_TYPES.items():
        address = channels[event_type]["address"]
        named = set(re.findall(r"\{(\w+)\}", address))
        assert named == channels[event_type]["parameters"].keys()
        given = {"migration": "x", "machine": "m", "host": "h", "lane": LANES[kind][0].value}
        subject = address.format(**given)
        assert subjects.stream_of(subject) == subjects.EVENTS
        if "migration" in named:
            assert subject == subjects.migration("x", given["lane"], event_type)


def test_it_is_what_asyncapi_says_that_such_a_document_is() -> None:
    """By the schema that AsyncAPI has published of its version 3.0.0."""
    checks = Draft7Validator(json.loads(ASYNCAPI.read_text(encoding="utf-8")))
    document = json.loads(json.dumps(DOCUMENT))
    assert [error.message for error in checks.iter_errors(document)] == []
    document["channels"]["go_given"]["adress"] = document["channels"]["go_given"].pop("address")
    assert not checks.is_valid(document)
