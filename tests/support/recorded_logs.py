"""Logs of real and of simulated runs, as the replay finds them in a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import structlog

from godwit.proof.simulator import run as simulator
from godwit.runtime.log_file import LogFile
from godwit_protocol.replay.stories import Stories, Story
from godwit_protocol.stored import Stored


@cache
def simulated(seed: int) -> tuple[Stored, ...]:
    """All events of a seed's run."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        return tuple(simulator.events_of(seed))
    finally:
        structlog.configure(**before)


def in_file(path: Path) -> list[Stored]:
    """All messages of an exported log."""
    return list(LogFile(path).messages())


def stories_of(messages: Iterable[Stored]) -> Iterator[Story]:
    """The messages by migration."""
    together = Stories()
    for message in messages:
        yield from together.take(message)
    yield from together.rest()
