"""Whether one host reaches where another listens: what is asked, and what is said. Pure.

A ring of three live messages, for nobody but the two hosts can know. Whoever wants to know asks the
destination; that offers the source the place where it listens; the source goes there, and says what
it found. Each is telemetry: it may be lost, is asked again, and is answered anew each time. So what
was found is never older than the question.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeVar

import msgspec

from . import subjects
from .errors import CorruptError
from .unpacking import unpack

MESSAGE_BYTES_MAX: Final = 4096
_ASKED: Final = "link_asked"
_OFFERED: Final = "link_offered"
_FOUND: Final = "link_found"


class LinkAsked(msgspec.Struct, frozen=True, kw_only=True):
    """To ``destination``: tell ``source`` where you listen. ``ask``: an id, alike in all three."""

    ask: str
    source: str
    destination: str

    @property
    def subject(self) -> str:
        """Where it is said."""
        return asked_of(self.destination)


class LinkOffered(msgspec.Struct, frozen=True, kw_only=True):
    """To ``source``: ``destination`` listens here."""

    ask: str
    source: str
    destination: str
    address: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]

    @property
    def subject(self) -> str:
        """Where it is said."""
        return offered_to(self.source)


class LinkFound(msgspec.Struct, frozen=True, kw_only=True):
    """What ``source`` found at ``address``, and when by its wall clock.

    ``error`` is empty if somebody answered: the host ``answered_by``, which speaks ``version`` of
    the link, ``answer_ns`` after the source began to connect: two round trips, and its service's
    turn. ``own_version``: what the source speaks.
    """

    ask: str
    source: str
    destination: str
    address: str
    port: int
    wall_ns: int
    own_version: int
    answered_by: str = ""
    version: int = 0
    answer_ns: int = 0
    error: str = ""

    @property
    def subject(self) -> str:
        """Where it is said."""
        return found_by(self.source)


class LinkUnknown(msgspec.Struct, frozen=True, kw_only=True):
    """Nobody said what was found: ``why``, and what to do."""

    why: str
    hint: str = ""


Message = LinkAsked | LinkOffered | LinkFound
M = TypeVar("M", bound=Message)


def asked_of(host: str) -> str:
    """Where a destination is asked."""
    return subjects.telemetry("host", host, _ASKED)


def offered_to(host: str) -> str:
    """Where a source is offered a place."""
    return subjects.telemetry("host", host, _OFFERED)


def found_by(host: str) -> str:
    """Where a source says what it found."""
    return subjects.telemetry("host", host, _FOUND)


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    return msgspec.msgpack.encode(message)


def decode(data: bytes, kind: type[M]) -> M | None:
    """The message, or None if the bytes are no such message: anybody may have said them."""
    decoder = msgspec.msgpack.Decoder(kind)
    try:
        return unpack(decoder, data, "a message about a link", bytes_max=MESSAGE_BYTES_MAX)
    except CorruptError:
        return None
