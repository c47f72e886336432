"""What an event of a migration tells its coordinator, live and in replay. Pure."""

from __future__ import annotations

from ..events import Event
from ..events import migration as ev
from ..events.migration import AbortReason
from . import inputs as inp
from .inputs import Input


def input_of(event: Event) -> Input | None:
    """Return what an event of a migration tells the coordinator; None if nothing."""
    match event:
        case ev.ReservationGranted():
            return inp.Granted(placements=event.placements)
        case ev.ReservationRefused():
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
