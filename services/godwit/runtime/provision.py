"""Create the streams, read each configuration back, and compare: a one-shot job.

``python -m godwit.runtime.provision`` is the only place that creates streams. It never changes one
that exists: a stream that differs is an error that names the field, because a log whose rules were
altered silently is no log. Which subjects go where is in ``godwit_protocol.subjects``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final

import structlog

from godwit.runtime.choices import Retention
from godwit.runtime.config import Service
from godwit.runtime.jetstream_api import (
    FORBIDDEN_OPTIONS,
    Discard,
    Republished,
    Storage,
    StreamRules,
)
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.service import ServiceContext, run_service
from godwit_protocol.errors import ConflictError
from godwit_protocol.subjects import (
    ARCHIVED,
    BEGINNINGS,
    EVENTS,
    GUEST,
    HISTORY,
    LEDGER,
    LIVE_ROOT,
    REGISTER,
    ROOT,
    STREAM_SUBJECTS,
    TELEMETRY,
)

_KEPT_DUPLICATE_WINDOW_S: Final = 2 * 60
_GUEST_DUPLICATE_WINDOW_S: Final = 10 * 60
_LIVE: Final = Republished(src=f"{ROOT}.>", dest=f"{LIVE_ROOT}.>")
_GUEST_BYTES_MAX: Final = 1024**3
_GUEST_AGE_S_MAX: Final = 24 * 3600
_HISTORY_AGE_S_MAX: Final = 30 * 24 * 3600
_TELEMETRY_AGE_S_MAX: Final = 10 * 60
_TELEMETRY_MESSAGES_PER_SUBJECT_MAX: Final = 1000


class StreamMismatchError(ConflictError):
    """A stream exists with other rules than Godwit needs, or the server did not take one of them.

    ``stream``, ``field``, ``wanted`` and ``found`` say which.
    """

    def __init__(self, stream: str, field: str, wanted: object, found: object) -> None:
        super().__init__(
            f"stream {stream} has {field} = {found!r}, but must have {wanted!r}",
            hint="move the stream's data away or correct its configuration by hand",
        )
        self.stream = stream
        self.field = field
        self.wanted = wanted
        self.found = found


def stream_rules(*, replicas: int = 1, archived: bool = False) -> tuple[StreamRules, ...]:
    """Return the rules of all streams. ``replicas``: 1, or 3 on a cluster of servers. ``archived``:
    migrations that are over may leave the events' stream.
    """
    kept = tuple(
        StreamRules(
            name=name,
            subjects=STREAM_SUBJECTS[name],
            duplicate_window_s=_KEPT_DUPLICATE_WINDOW_S,
            keep_for_ever=True,
            live=_LIVE if name == EVENTS else None,
            archived=archived and name == EVENTS,
            replicas=replicas,
        )
        for name in (EVENTS, REGISTER, LEDGER)
    )
    guest = StreamRules(
        name=GUEST,
        subjects=STREAM_SUBJECTS[GUEST],
        discard=Discard.NEW,
        max_bytes=_GUEST_BYTES_MAX,
        max_age_s=_GUEST_AGE_S_MAX,
        duplicate_window_s=_GUEST_DUPLICATE_WINDOW_S,
        keep_for_ever=False,
        replicas=replicas,
    )
    telemetry = StreamRules(
        name=TELEMETRY,
        subjects=STREAM_SUBJECTS[TELEMETRY],
        storage=Storage.MEMORY,
        max_age_s=_TELEMETRY_AGE_S_MAX,
        max_msgs_per_subject=_TELEMETRY_MESSAGES_PER_SUBJECT_MAX,
        duplicate_window_s=_KEPT_DUPLICATE_WINDOW_S,
        keep_for_ever=False,
        replicas=replicas,
    )
    history = StreamRules(
        name=HISTORY,
        subjects=STREAM_SUBJECTS[HISTORY],
        max_age_s=_HISTORY_AGE_S_MAX,
        max_msgs_per_subject=1,
        duplicate_window_s=_KEPT_DUPLICATE_WINDOW_S,
        keep_for_ever=False,
        replicas=replicas,
    )
    last_words = tuple(
        StreamRules(
            name=name,
            subjects=STREAM_SUBJECTS[name],
            max_msgs_per_subject=1,
            duplicate_window_s=_KEPT_DUPLICATE_WINDOW_S,
            keep_for_ever=False,
            replicas=replicas,
        )
        for name in (ARCHIVED, BEGINNINGS)
    )
    return (*kept, guest, history, *last_words, telemetry)


async def provision(log: NatsLog, *, replicas: int = 1, archived: bool = False) -> Sequence[str]:
    """Create what is missing and check all of it. Returns the names of the streams. Idempotent.

    Raises ``StreamMismatchError``, ``LogRequestError`` if the server refuses a stream,
    ``UnreachableError``.
    """
    rules = stream_rules(replicas=replicas, archived=archived)
    for stream in rules:
        check_stream(stream, await log.ensure_stream(stream))
    return [stream.name for stream in rules]


def check_stream(rules: StreamRules, found: dict[str, Any]) -> None:
    """Compare a configuration that was read back. Raises ``StreamMismatchError``.

    The server leaves out fields that have its zero value.
    """
    for field, wanted in rules.configuration().items():
        actual = found.get(field, type(wanted)())
        if field == "subjects":
            wanted, actual = sorted(wanted), sorted(actual)  # noqa: PLW2901  # order is no rule
        if actual != wanted:
            raise StreamMismatchError(rules.name, field, wanted, actual)
    for option, harmless in FORBIDDEN_OPTIONS.items():
        if found.get(option, harmless) != harmless:
            raise StreamMismatchError(rules.name, option, harmless, found[option])


async def main(context: ServiceContext) -> None:
    """The one-shot job."""
    config = context.config
    archived = config.retention is Retention.ARCHIVE
    names = await provision(context.log, replicas=config.nats_replicas, archived=archived)
    structlog.get_logger(__name__).info("streams are as they must be", streams=names)


if __name__ == "__main__":
    sys.exit(run_service(Service.PROVISION, main))
