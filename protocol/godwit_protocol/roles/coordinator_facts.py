"""What an event of a migration tells its coordinator, live and in replay. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Final

from ..events import Event
from ..events import bandwidth as bev
from ..events import migration as ev
from ..events import reservation as rev
from ..events.machine import MachineFailed
from ..events.migration import AbortReason
from . import inputs as inp
from .inputs import Input

BANDWIDTH_REQUESTS_MAX: Final = 1000
"""So many changes of its bandwidth are heard in one migration, and no more."""


class Facts:
    """Which events are told to the coordinator of one migration, the same in every replica: of each
    kind the first; of a loss the first of each host; but each request of a bandwidth, up to
    ``BANDWIDTH_REQUESTS_MAX``.
    """

    def __init__(self) -> None:
        self._told: Counter[tuple[type[Event], str]] = Counter()

    def is_new(self, event: Event, host: str = "") -> bool:
        """Whether an event of ``host``, the next of the migration's that means something, is to be
        told.
        """
        kind = type(event), _lost_on(event, host)
        self._told[kind] += 1
        is_repeated = isinstance(event, bev.BandwidthRequested)
        return self._told[kind] <= (BANDWIDTH_REQUESTS_MAX if is_repeated else 1)


def _lost_on(event: Event, host: str) -> str:
    """The host that has nothing of the machine any more, if that is what the event says."""
    match event:
        case MachineFailed():
            return host
        case ev.HostFenced():
            return event.target
        case _:
            return ""


def input_of(event: Event, host: str = "") -> Input | None:
    """Return what an event of a migration, written by ``host``, tells the coordinator; None if
    nothing.
    """
    if lost := _lost_on(event, host):
        return inp.ImageLost(host=lost, is_off=isinstance(event, ev.HostFenced))
    match event:
        case rev.ReservationGranted():
            return inp.Granted(placements=event.placements)
        case rev.ReservationRefused():
            return inp.Refused(reason=AbortReason.RESERVATION_REFUSED, message=event.message)
        case ev.PreparationOrdered():
            return inp.PreparationKnown(
                spec=event.spec, source=event.source, register_epoch=event.register_epoch
            )
        case ev.DestinationPrepared():
            return inp.DestinationReady(address=event.address, port=event.port, token=event.token)
        case ev.PreparationRefused():
            return inp.Refused(reason=AbortReason.DESTINATION_REFUSED, message=event.message)
        case ev.ImageDiscarded():
            # A destination that was restarted while it prepared has nothing to say but this.
            return inp.Refused(reason=event.reason, message=event.message)
        case ev.MemoryLeft():
            return inp.Refused(reason=AbortReason.DESTINATION_REFUSED, message=event.message)
        case ev.StartDecided():
            return inp.StartKnown(start=event.start, reason=event.reason, message=event.message)
        case ev.CancelRequested():
            return inp.CancelWanted()
        case bev.BandwidthRequested():
            return inp.BandwidthWanted(
                order=event.order,
                bytes_per_second=event.bandwidth_bytes_per_second,
                requested_by=event.requested_by,
            )
        case ev.MigrationAbandoned():
            return inp.SourceAbandoned(reason=event.reason, message=event.message)
        case ev.MachineActivated():
            return inp.Activated()
        case ev.MachineReleased():
            return inp.SourceReleased()
        case ev.MigrationEnded():
            return inp.EndKnown()
        case _:
            return None
