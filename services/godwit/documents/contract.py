"""The events as a contract for programs that are not ours: JSON Schema, and AsyncAPI 3.

Made from the code by ``make docs``. A schema says what an event's map holds once it is unpacked;
byte strings, which JSON lacks, are said to be base64.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any, Final

import msgspec

from godwit_protocol import cloudevents, subjects
from godwit_protocol.events import EVENT_TYPES, Envelope, Event, Lane
from godwit_protocol.events.machine import HostAnnounced

from .event_writers import ADDRESSED, LANES

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
ASYNCAPI_VERSION: Final = "3.0.0"
_REF: Final = "#/$defs/{name}"
_ENVELOPE: Final = Envelope.__name__
_MIGRATION, _MACHINE, _INVENTORY = "migration", "machine", "inventory"

Json = dict[str, Any]


def event_schemas() -> Json:
    """One schema for the stored form of any event, and in ``$defs`` one for each type.

    ``$defs/<type>`` is a whole event: the envelope with the body of that type.
    """
    schemas, parts = _components(_REF)
    whole = {name: _whole(name, schemas[event.__name__]) for name, event in EVENT_TYPES.items()}
    return {
        "$schema": DIALECT,
        "title": "An event of Godwit, unpacked from MessagePack",
        "oneOf": [{"$ref": _REF.format(name=name)} for name in whole],
        "$defs": {**whole, **parts},
    }


def asyncapi() -> Json:
    """Where events appear, who writes them, and what is in them."""
    ref = "#/components/schemas/{name}"
    schemas, parts = _components(ref)
    bodies = {event.__name__: schemas[event.__name__] for event in EVENT_TYPES.values()}
    return {
        "asyncapi": ASYNCAPI_VERSION,
        "info": {
            "title": "Godwit",
            "version": version("godwit"),
            "description": "Every step of a live migration is an event: a MessagePack map on NATS"
            " JetStream, with CloudEvents headers in binary mode.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": cloudevents.CONTENT_TYPE,
        "servers": {"nats": {"host": "127.0.0.1:4222", "protocol": "nats"}},
        "channels": {event.TYPE: _channel(event) for event in EVENT_TYPES.values()},
        "operations": {f"write_{event.TYPE}": _operation(event) for event in EVENT_TYPES.values()},
        "components": {
            "messages": {event.TYPE: _message(event, ref) for event in EVENT_TYPES.values()},
            "schemas": {"Headers": _headers(), **bodies, **parts},
        },
    }


def as_text(document: Json) -> str:
    """As it stands in a file."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _components(template: str) -> tuple[Mapping[str, Json], Mapping[str, Json]]:
    """Each event's own schema by its class's name, and those of the parts that they refer to."""
    types: Iterable[Any] = (Envelope, *EVENT_TYPES.values())
    references, parts = msgspec.json.schema_components(types, ref_template=template)
    own = {reference["$ref"].rpartition("/")[2] for reference in references}
    parts[_ENVELOPE]["properties"].pop("body")
    parts[_ENVELOPE]["required"].remove("body")
    schemas = {name: parts[name] for name in own}
    return schemas, {name: schema for name, schema in parts.items() if name not in own} | {
        _ENVELOPE: parts[_ENVELOPE]
    }


def _whole(event_type: str, body: Json) -> Json:
    """An envelope that holds this body. Newer versions may add fields anywhere."""
    return {
        "title": event_type,
        "allOf": [{"$ref": _REF.format(name=_ENVELOPE)}],
        "properties": {"type": {"const": event_type}, "body": body},
        "required": ["type", "body"],
    }


def _channel(event: type[Event]) -> Json:
    scope = _scope(event)
    address = {
        _MIGRATION: f"{subjects.ROOT}.migration.{{migration}}.{{lane}}.{event.TYPE}",
        _MACHINE: f"{subjects.ROOT}.machine.{{machine}}.{{lane}}.{event.TYPE}",
        _INVENTORY: f"{subjects.ROOT}.inventory.{{host}}",
    }[scope]
    parameters: Json = {"host" if scope == _INVENTORY else scope: {}}
    if scope != _INVENTORY:
        parameters["lane"] = {"enum": [lane.value for lane in LANES[event]]}
    waiting = ", ".join(ADDRESSED.get(event, ()))
    channel: Json = {
        "address": address,
        "messages": {event.TYPE: {"$ref": f"#/components/messages/{event.TYPE}"}},
        "parameters": parameters,
    }
    if waiting:
        inbox = f"{subjects.ROOT}.host.<host>.<service>.{scope}.<id>.<lane>.{event.TYPE}"
        channel["description"] = f"Or on {inbox}, where it waits for the service: {waiting}."
    return channel


def _scope(event: type[Event]) -> str:
    if event is HostAnnounced:
        return _INVENTORY
    return _MACHINE if event.__module__ == HostAnnounced.__module__ else _MIGRATION


def _operation(event: type[Event]) -> Json:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{event.TYPE}"},
        "summary": f"Written by: {', '.join(LANES[event])}.",
    }


def _message(event: type[Event], ref: str) -> Json:
    envelope, body = (ref.format(name=name) for name in (_ENVELOPE, event.__name__))
    return {
        "name": cloudevents.TYPE_PREFIX + event.TYPE,
        "summary": inspect.cleandoc(event.__doc__ or "").splitlines()[0],
        "contentType": cloudevents.CONTENT_TYPE,
        "headers": {"$ref": ref.format(name="Headers")},
        "payload": {
            "allOf": [{"$ref": envelope}],
            "properties": {"body": {"$ref": body}},
            "required": ["body"],
        },
    }


def _headers() -> Json:
    example = Envelope(
        id="", type="", lane=Lane.SOURCE, lane_sequence=1, host="", wall_ns=0, monotonic_ns=0,
        boot="", prev_hash=b"", body=msgspec.Raw(b"\x80"),
    )  # fmt: skip
    names = [*cloudevents.headers(example)]
    return {
        "type": "object",
        "properties": {name: {"type": "string"} for name in names},
        "required": names,
    }
