"""Estimates from the histories that the tracker keeps in the log. Decides and keeps nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Final, cast

from godwit.runtime.event_log import EventLog
from godwit_protocol import subjects
from godwit_protocol.errors import CorruptError
from godwit_protocol.estimation import forecast
from godwit_protocol.estimation import history as hist
from godwit_protocol.estimation.forecast import Forecast
from godwit_protocol.estimation.history import DirtyWindow, LinkSample
from godwit_protocol.estimation.rounds import MoveLimits
from godwit_protocol.stored import Stored

LINKS_READ_MAX: Final = 256
"""Links whose samples stand in for those of a link that nothing has been moved over yet."""


async def forecasts(
    log: EventLog, machine: str, source: str, destinations: Sequence[str], limits: MoveLimits
) -> Mapping[str, Forecast]:
    """What a move of ``machine`` from ``source`` to each of the destinations would take.

    Raises ``UnreachableError``.
    """
    windows, samples = await asyncio.gather(
        _windows(log, machine), _samples(log, source, destinations)
    )
    return forecast.forecasts(
        windows, samples, limits, machine=machine, source=source, destinations=destinations
    )


async def _windows(log: EventLog, machine: str) -> Sequence[DirtyWindow]:
    stored = await log.last(subjects.machine_history(machine))
    if stored is None:
        return ()
    with suppress(CorruptError):  # the tracker writes it anew
        return hist.decode_machine(stored.data).windows
    return ()


async def _samples(log: EventLog, source: str, destinations: Sequence[str]) -> Sequence[LinkSample]:
    """Those of the links from ``source``, and of others if one of the links has none. They come
    in the order of their migrations' ids, which is that of time.
    """
    found = await _read(log, subjects.link_history(source, "*"))
    if not {sample.destination for sample in found} >= set(destinations):
        found = {*found, *await _read(log, subjects.link_history("*", "*"))}
    return sorted(found, key=lambda sample: sample.migration)


async def _read(log: EventLog, filter_: str) -> set[LinkSample]:
    found: set[LinkSample] = set()
    links = 0
    messages = cast("AsyncGenerator[Stored, None]", log.read((filter_,)))
    async with aclosing(messages):
        async for stored in messages:
            with suppress(CorruptError):
                found.update(hist.decode_link(stored.data).samples)
            links += 1
            if links == LINKS_READ_MAX:
                break
    return found
