"""Asking two hosts whether one reaches the other: the question, and a bounded wait for the answer.

What was found becomes a verdict in ``godwit_protocol.compatibility``; here nothing is decided.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any, Final, TypeAlias, cast

from godwit.runtime.clock import Clock
from godwit.runtime.event_log import EventLog
from godwit_protocol import subjects
from godwit_protocol.link_probe import (
    LinkAsked,
    LinkFound,
    LinkOffered,
    LinkUnknown,
    decode,
    encode,
    found_by,
    offered_to,
)

ANSWER_S_MAX: Final = 3.0
NOBODYS_PORT: Final = 1
"""Offered to a source only to hear whether it is there: no destination listens on it."""
ASK_EVERY_S: Final = 0.5
"""Live messages may be lost: a question is repeated until it is answered."""
QUESTIONS: Final = 6
"""So often a host is asked for a sign of life."""

LookAtLink: TypeAlias = Callable[[str, str], Awaitable[LinkFound | LinkUnknown]]
"""Source and destination to what the source finds where the destination listens."""


async def not_looked_at(_source: str, _destination: str) -> LinkUnknown:
    """``LookAtLink`` for whoever will not go by it."""
    return LinkUnknown(why="nobody looked")


async def look_at_link(
    log: EventLog, clock: Clock, source: str, destination: str
) -> LinkFound | LinkUnknown:
    """Have ``source`` go to where ``destination`` listens, and say what it found.

    Who of the two is silent for ``ANSWER_S_MAX`` is named. Raises ``UnreachableError``.
    """
    asked = LinkAsked(ask=clock.new_id(), source=source, destination=destination)
    heard = cast(
        "AsyncGenerator[tuple[str, bytes], None]",
        log.listen((offered_to(source), found_by(source))),
    )
    answer = _Answer(asked)
    async with aclosing(heard):
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S_MAX):
                waiting = asyncio.create_task(answer.wait(heard))
                try:
                    await _ask(log, (asked,), waiting)
                    return waiting.result()
                finally:
                    waiting.cancel()
                    await asyncio.gather(waiting, return_exceptions=True)
    return answer.missing()


async def is_alive(log: EventLog, clock: Clock, host: str) -> bool:
    """Whether one of the host's services says anything: each is asked, ``QUESTIONS`` times, for its
    part in a look at the link from the host to itself.

    Raises ``UnreachableError`` if the event log did not answer: then silence says nothing.
    """
    ask = clock.new_id()
    asked = LinkAsked(ask=ask, source=host, destination=host)
    own = LinkOffered(
        ask=ask, source=host, destination=host, address="localhost", port=NOBODYS_PORT
    )
    heard = cast(
        "AsyncGenerator[tuple[str, bytes], None]",
        log.listen((offered_to(host), found_by(host))),
    )
    async with aclosing(heard):
        waiting = asyncio.create_task(_sign_of_life(heard, host))
        try:
            for _ in range(QUESTIONS):
                await _ask_once(log, (asked, own), waiting)
                if waiting.done():
                    return waiting.result()
                await log.last(subjects.inventory(host), timeout_s=ANSWER_S_MAX)
            return False
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


async def _sign_of_life(heard: AsyncGenerator[tuple[str, bytes], None], host: str) -> bool:
    """Until anything comes but an offer that a coordinator made up."""
    async for subject, data in heard:
        offered = decode(data, LinkOffered)
        if subject == found_by(host) or offered is None or offered.port != NOBODYS_PORT:
            return True
    raise AssertionError("listening ends by an error only")


async def _ask(
    log: EventLog, questions: Sequence[LinkAsked | LinkOffered], waiting: asyncio.Task[Any]
) -> None:
    await asyncio.sleep(0)  # the task listens before anything is asked
    while not waiting.done():
        await _ask_once(log, questions, waiting)


async def _ask_once(
    log: EventLog, questions: Sequence[LinkAsked | LinkOffered], waiting: asyncio.Task[Any]
) -> None:
    for asked in questions:
        await log.announce(asked.subject, encode(asked))
    await asyncio.wait((waiting,), timeout=ASK_EVERY_S)


class _Answer:
    """What has come of one question."""

    def __init__(self, asked: LinkAsked) -> None:
        self._asked = asked
        self._offered = False

    async def wait(self, heard: AsyncGenerator[tuple[str, bytes], None]) -> LinkFound:
        """Until the source has said what it found. Raises ``UnreachableError``."""
        async for subject, data in heard:
            if subject == found_by(self._asked.source):
                found = decode(data, LinkFound)
                if found is not None and found.ask == self._asked.ask:
                    return found
            else:
                offered = decode(data, LinkOffered)
                self._offered |= offered is not None and offered.ask == self._asked.ask
        raise AssertionError("listening ends by an error only")

    def missing(self) -> LinkUnknown:
        """Who did not say anything."""
        host, service = self._asked.destination, "destination_host"
        if self._offered:
            host, service = self._asked.source, "source_host"
        return LinkUnknown(
            why=f"the {service} service of {host} did not answer within {ANSWER_S_MAX:g} s",
            hint=f"see that {service} runs on {host} and reaches the event log",
        )
