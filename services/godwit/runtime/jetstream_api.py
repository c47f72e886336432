"""The JetStream API's JSON, as far as Godwit uses it: requests as dicts, replies as typed structs.

Pure shapes and parsing; the one module that talks to the server is ``nats_log``. The names are the
server's own (https://docs.nats.io/reference/reference-protocols/nats_api_reference).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from godwit_protocol.errors import UnreachableError

STATUS_HEADER: Final = "Status"
PENDING_MESSAGES_HEADER: Final = "Nats-Pending-Messages"

STREAM_HEADER: Final = "Nats-Stream"
SUBJECT_HEADER: Final = "Nats-Subject"
SEQUENCE_HEADER: Final = "Nats-Sequence"
TIME_HEADER: Final = "Nats-Time-Stamp"
"""With the three above: of a message that is told directly, or said once more when it is stored."""
NUM_PENDING_HEADER: Final = "Nats-Num-Pending"
"""At the end of a direct answer: how many more there are."""

STATUS_HEARTBEAT: Final = "100"
STATUS_NO_RESPONDERS: Final = "503"
DELIVERY_PREFIX: Final = "$JS.ACK."

CONFLICT_CODES: Final = frozenset({10071, 10164})
"""Wrong last sequence, as one replica says it and as three do."""
FULL_CODES: Final = frozenset({10023, 10028, 10047, 10077})
"""No room: server resources, memory, storage, and a stream at its own limit (store failed)."""
STREAM_IN_USE_CODE: Final = 10058
"""Somebody created it with other rules in the meantime."""
NO_STREAM_CODE: Final = 10059
IN_PROCESS_CODE: Final = 10158
"""The same message id is being stored: its first sender was not answered, and asks again."""
NO_MESSAGE_CODE: Final = 10037
UNAVAILABLE: Final = 503

_HEADER_LINE: Final = b"NATS/1.0"
_NANOSECONDS: Final = 1_000_000_000


class ApiError(msgspec.Struct, frozen=True):
    """The server's refusal: an HTTP-like ``code`` and its own ``err_code``."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class Reply(msgspec.Struct, frozen=True):
    """What all answers share: the server's refusal, if it refused."""

    error: ApiError | None = None


ReplyT = TypeVar("ReplyT", bound=Reply)


class LogSilentError(UnreachableError):
    """No answer within the deadline; what was asked may or may not have happened."""


class PublishReply(Reply, frozen=True):
    """Answer to a publish: where the message stands."""

    seq: int = 0
    duplicate: bool = False


class ConsumerReply(Reply, frozen=True):
    """Answer to the creation of a consumer."""


class StreamReply(Reply, frozen=True):
    """Answer to the creation of a stream or the question for it."""

    config: dict[str, Any] = {}


class PurgeReply(Reply, frozen=True):
    """Answer to a purge: how many messages are gone."""

    purged: int = 0


class RawMessage(msgspec.Struct, frozen=True):
    """A stored message as the API gives it."""

    subject: str
    seq: int
    time: str
    data: str = ""
    hdrs: str = ""


class MessageReply(Reply, frozen=True):
    """Answer to the question for one stored message."""

    message: RawMessage | None = None


class Storage(StrEnum):
    """Where a stream keeps its messages."""

    FILE = "file"
    MEMORY = "memory"


class Discard(StrEnum):
    """What a full stream refuses: new messages, or the oldest ones it has."""

    OLD = "old"
    NEW = "new"


class Republished(NamedTuple):
    """What is stored under ``src`` is said once more under ``dest``, both with a wildcard."""

    src: str
    dest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRules:
    """What a stream must be. -1 and 0 mean without limit, as on the server."""

    name: str
    subjects: tuple[str, ...]
    storage: Storage = Storage.FILE
    discard: Discard = Discard.OLD
    max_bytes: int = -1
    max_age_s: int = 0
    max_msgs_per_subject: int = -1
    duplicate_window_s: int
    keep_for_ever: bool
    """Nobody may delete a message, nor purge it but from a stream that is ``archived``."""
    archived: bool = False
    """What is over leaves the stream, once it is whole in an archive."""
    live: Republished | None = None
    """Those who may not read the stream can watch it."""
    replicas: int = 1

    def configuration(self) -> dict[str, Any]:
        """Return the stream's configuration as the server takes it and gives it back."""
        live = {} if self.live is None else {"republish": self.live._asdict()}
        return {
            **live,
            "name": self.name,
            "subjects": list(self.subjects),
            "retention": "limits",
            "storage": self.storage.value,
            "discard": self.discard.value,
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": self.max_bytes,
            "max_age": self.max_age_s * _NANOSECONDS,
            "max_msgs_per_subject": self.max_msgs_per_subject,
            "max_msg_size": -1,
            "duplicate_window": self.duplicate_window_s * _NANOSECONDS,
            "num_replicas": self.replicas,
            "allow_direct": True,
            "deny_delete": self.keep_for_ever,
            "deny_purge": self.keep_for_ever and not self.archived,
        }


FORBIDDEN_OPTIONS: Final[Mapping[str, object]] = {
    "sealed": False,
    "no_ack": False,
    "discard_new_per_subject": False,
    "allow_rollup_hdrs": False,
    "allow_msg_ttl": False,
    "allow_msg_schedules": False,
    "subject_delete_marker_ttl": 0,
    "persist_mode": "default",
}
"""Options of a stream that lose or refuse messages behind our back, with their harmless values.

The server leaves an option out that has its default.
"""


def consumer_request(
    stream: str,
    name: str,
    filters: Sequence[str],
    *,
    after_sequence: int,
    inactive_s: float,
) -> dict[str, Any]:
    """Return the request for an ephemeral pull consumer that acknowledges nothing."""
    return {
        "stream_name": stream,
        "action": "create",
        "config": {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": after_sequence + 1,
            "ack_policy": "none",
            "replay_policy": "instant",
            "filter_subjects": list(dict.fromkeys(filters)),
            "inactive_threshold": int(inactive_s * _NANOSECONDS),
            "mem_storage": True,
            "num_replicas": 1,
        },
    }


def pull_request(
    batch: int, *, bytes_max: int, expires_s: float, heartbeat_s: float
) -> dict[str, Any]:
    """Return the request for up to ``batch`` messages, sent as they come until it expires."""
    return {
        "batch": batch,
        "max_bytes": bytes_max,
        "expires": int(expires_s * _NANOSECONDS),
        "idle_heartbeat": int(heartbeat_s * _NANOSECONDS),
    }


class DeliveryPosition(NamedTuple):
    """What the reply subject of a delivered message says of it."""

    stream_sequence: int
    consumer_sequence: int
    """Counts this consumer's deliveries from 1 without a gap."""
    time_ns: int
    pending: int
    """How many more messages match."""


def delivery_position(reply: str) -> DeliveryPosition:
    """Parse ``$JS.ACK.<stream>.<consumer>.<delivered>.<sseq>.<cseq>.<time>.<pending>``.

    Servers with domains put two tokens before the stream and a random one at the end.
    """
    tokens = reply.split(".")
    first = 4 if len(tokens) == 9 else 6
    _, sequence, consumer_sequence, time_ns, pending = tokens[first : first + 5]
    return DeliveryPosition(int(sequence), int(consumer_sequence), int(time_ns), int(pending))


def header_bytes(headers: Mapping[str, str]) -> int:
    """Return how many bytes ``headers`` take on the wire."""
    lines = sum(len(key.encode()) + len(value.encode()) + 4 for key, value in headers.items())
    return len(_HEADER_LINE) + 2 + lines + 2


def header_fields(raw: bytes) -> dict[str, str]:
    """Parse lines of ``Name: Value``; what is none is passed over."""
    found = {}
    for line in raw.decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            found[name] = value.strip()
    return found


def raw_headers(message: RawMessage) -> dict[str, str]:
    """Decode the headers of a stored message."""
    return header_fields(base64.b64decode(message.hdrs))


def raw_data(message: RawMessage) -> bytes:
    """Decode the payload of a stored message."""
    return base64.b64decode(message.data)


def raw_time_ns(message: RawMessage) -> int:
    """When a message was stored."""
    return time_ns(message.time)


def time_ns(time: str) -> int:
    """Convert an RFC 3339 time with up to nine digits of fraction into ns since the epoch."""
    whole, _, fraction = time.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
    return seconds * _NANOSECONDS + int(fraction.ljust(9, "0"))
