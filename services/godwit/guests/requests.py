"""Requests and replies of Godwit's own guests: one JSON object each. Knows no guest in particular.

``{"op": "count"}`` is answered by an object of its own, and whatever cannot be done by
``{"error": {"code": …, "message": …, "hint": …}}``, with the codes of ``godwit_protocol.errors``. A
guest that raised would stop its machine, so no bytes whatever may make it raise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from godwit_protocol.errors import GodwitError, InvalidInputError


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op"):
    """Base of all requests; a subclass names its operation with ``tag=``."""


RequestT = TypeVar("RequestT")


def answered(
    decoder: msgspec.json.Decoder[RequestT], answer: Callable[[RequestT], Any], payload: bytes
) -> bytes:
    """Return the reply to one request: ``answer``'s result, or the error as a reply."""
    try:
        return msgspec.json.encode(answer(_decoded(decoder, payload)))
    except GodwitError as error:
        return _refusal(error)


def _decoded(decoder: msgspec.json.Decoder[RequestT], payload: bytes) -> RequestT:
    try:
        return decoder.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            f"the request cannot be read: {error}",
            hint='send one JSON object such as {"op": "status"}',
        ) from error


def _refusal(error: GodwitError) -> bytes:
    fields = {"code": error.code, "message": error.message, "hint": error.hint}
    return msgspec.json.encode({"error": fields})
