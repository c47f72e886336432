"""Messages of the direct link's control connection, and their codec. Pure.

Each is answered or superseded within a deadline that the roles keep; a message that is illegal in
the receiver's phase is the peer's error.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from .errors import RemoteProtocolError
from .events.migration import AbortReason, Verify
from .framing import CONTROL_PAYLOAD_BYTES_MAX
from .machine import PAGE_BYTES, RegionSpec
from .unpacking import unpack

LINK_VERSION: Final = 2

ClockNs = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
"""Of CLOCK_MONOTONIC; what is made of two of them still fits an event."""


class LinkMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Anything that the two hosts say to each other. ``fact``: the id of the event by which the log
    tells the same, now or soon; empty if none does.
    """

    fact: str = ""


class Hello(LinkMessage, frozen=True, kw_only=True, tag="hello"):
    """Source: opens the link.

    ``extents[i]`` holds pairs (start page, pages) as little-endian int64: what region ``i`` holds
    now, so that the destination can populate it before anything is stunned.
    """

    version: int
    migration: str
    machine: str
    epoch: int
    regions: tuple[RegionSpec, ...]
    extents: tuple[bytes, ...]
    connections: int


class Welcome(LinkMessage, frozen=True, kw_only=True, tag="welcome"):
    """Destination: the memory is populated, the bulk connections may come. ``holds_content``: it
    has chunks of other machines or files that the machine may have too, and takes offers.
    ``compressions``: names of the methods by which pages may come compressed. ``cores``: what it
    may use; 0: it takes no change of how many connections carry pages.
    """

    version: int
    populate_ns: int
    holds_content: bool = False
    compressions: tuple[str, ...] = ()
    cores: int = 0


class RoundApplied(LinkMessage, frozen=True, kw_only=True, tag="round_applied"):
    """Destination: every page of the round is in memory."""

    round: int
    pages: int
    applied_bytes: int


class Stage(LinkMessage, frozen=True, kw_only=True, tag="stage"):
    """Source: the last round went out; here is the rest of the machine.

    ``sent_digest``: of all frames of all rounds, added up; empty if they are not digested.
    ``digests``: by region, of the whole image; empty unless both images are compared.
    """

    round: int
    checkpoint: bytes
    verify: Verify
    digests: dict[str, bytes] = {}
    sent_digest: bytes = b""


class Staged(LinkMessage, frozen=True, kw_only=True, tag="staged"):
    """Destination: STAGED is in my journal."""


class Go(LinkMessage, frozen=True, kw_only=True, tag="go"):
    """Source: GO is in my journal."""


class Active(LinkMessage, frozen=True, kw_only=True, tag="active"):
    """Destination: the register names me and the machine runs."""

    epoch: int
    first_step_ns: int


class Refuse(LinkMessage, frozen=True, kw_only=True, tag="refuse"):
    """Destination: I cannot go on; nothing of mine will run."""

    reason: AbortReason
    message: str


class Abort(LinkMessage, frozen=True, kw_only=True, tag="abort"):
    """Source: I will not give GO (any more); do not run, keep the bytes until I say Runs."""

    reason: AbortReason


class Quarantined(LinkMessage, frozen=True, kw_only=True, tag="quarantined"):
    """Destination: in my journal it stands that I will not run this image."""


class Runs(LinkMessage, frozen=True, kw_only=True, tag="runs"):
    """Source: the machine runs here again; the image may be discarded."""


class Ping(LinkMessage, frozen=True, kw_only=True, tag="ping"):
    """Either: I am alive. ``stun_near``, from a source: in some milliseconds it stuns the machine,
    if nothing comes between. Nothing hangs on it but how fast the destination is then.
    ``asked_ns``, from a source: what time is it there, asked at this time here; 0: it is not asked.
    """

    stun_near: bool = False
    asked_ns: ClockNs = 0


class Pong(LinkMessage, frozen=True, kw_only=True, tag="pong"):
    """Destination, at once, to the Ping that asked: when it was heard and answered, by my clock."""

    asked_ns: ClockNs
    heard_ns: ClockNs
    said_ns: ClockNs


class Here(LinkMessage, frozen=True, kw_only=True, tag="here"):
    """Destination, to whoever only asks: who listens here. Not a message of any migration."""

    version: int
    host: str


def extents_bytes(extents: tuple[bytes, ...]) -> int:
    """How much a machine holds, by ``Hello.extents``."""
    return PAGE_BYTES * sum(sum(memoryview(data).cast("q")[1::2]) for data in extents)


AnyLinkMessage = (
    Hello
    | Welcome
    | RoundApplied
    | Stage
    | Staged
    | Go
    | Active
    | Refuse
    | Abort
    | Quarantined
    | Runs
    | Ping
    | Pong
)

_decoder: Final[msgspec.msgpack.Decoder[AnyLinkMessage]] = msgspec.msgpack.Decoder(AnyLinkMessage)
_here_decoder: Final = msgspec.msgpack.Decoder(Here)


def encode(message: LinkMessage) -> bytes:
    """Return the payload of a control frame."""
    return msgspec.msgpack.encode(message)


def decode(payload: bytes) -> AnyLinkMessage:
    """Return the message. Raises ``RemoteProtocolError`` for anything else."""
    what = "the peer's control message"
    return unpack(
        _decoder, payload, what, bytes_max=CONTROL_PAYLOAD_BYTES_MAX, error=RemoteProtocolError
    )


def decode_here(payload: bytes) -> Here:
    """Return the answer to a probe. Raises ``RemoteProtocolError`` for anything else."""
    return unpack(
        _here_decoder,
        payload,
        "the answer to a probe",
        bytes_max=CONTROL_PAYLOAD_BYTES_MAX,
        error=RemoteProtocolError,
    )
