"""What the log knows that a move's compatibility is judged by. Decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import structlog

from godwit.coordinator.links import LookAtLink
from godwit.runtime.event_log import EventLog
from godwit_protocol import codec, ledger, subjects
from godwit_protocol.catalogue import Catalogue
from godwit_protocol.compatibility.case import Case, Side
from godwit_protocol.errors import CorruptError
from godwit_protocol.events.machine import HostAnnounced
from godwit_protocol.events.reservation import Placement
from godwit_protocol.ledger import Holding, HostPicture
from godwit_protocol.link_probe import LinkFound, LinkUnknown
from godwit_protocol.machine import MachineSpec

_log: Final = structlog.get_logger(__name__)


async def gather(
    log: EventLog,
    catalogue: Catalogue,
    spec: MachineSpec,
    source: str,
    destination: str,
    look_at_link: LookAtLink,
) -> Case:
    """Return the case of moving a machine that runs on ``source``, as the log shows it now, and
    ``look_at_link`` the link between the two.

    Raises ``UnreachableError``, and ``CorruptError`` if what either announced cannot be read.
    """
    here, there = await asyncio.gather(_side(log, source), _side(log, destination))
    pictures = [HostPicture(host=source), HostPicture(host=destination)]
    if spec.vgpus:
        pictures = [await _picture(log, side) for side in (here, there)]
    link: LinkFound | LinkUnknown = LinkUnknown(why="a host runs a release that does not tell it")
    if here.facts is not None and there.facts is not None:
        link = await look_at_link(source, destination)
    return Case(
        spec=spec,
        source=here,
        destination=there,
        seats=_seats(pictures[0].holdings.values(), spec),
        there=pictures[1],
        catalogue=catalogue,
        link=link,
    )


async def _side(log: EventLog, host: str) -> Side:
    stored = await log.last(subjects.inventory(host))
    if stored is None:
        return Side(host=host)
    recorded = codec.decode(stored.data, stored.sequence)
    event = recorded.event
    announced = event if isinstance(event, HostAnnounced) else None
    return Side(host=host, announced=announced, boot=recorded.envelope.boot)


async def _picture(log: EventLog, side: Side) -> HostPicture:
    gpus = () if side.announced is None else side.announced.gpus
    picture = HostPicture(host=side.host, announced=side.announced is not None, gpus=gpus)
    async for stored in log.read([subjects.ledger(side.host)]):
        try:
            entry = ledger.line_of(stored)
        except CorruptError as error:  # the tracker passes over it too, and decides where all goes
            _log.error("unreadable line", subject=stored.subject, error=error.message)
            continue
        picture = ledger.apply(picture, entry, stored.sequence)
    return picture


def _seats(holdings: Iterable[Holding], spec: MachineSpec) -> tuple[Placement, ...] | None:
    """Where the machine's vGPUs sit: by its newest reservation, which the tracker may not yet have
    confirmed when the machine runs.
    """
    held = [holding for holding in holdings if holding.machine == spec.name]
    return held[-1].placements if held else None
