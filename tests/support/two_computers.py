"""What a log of one computer would be if the hosts had been two, whose clocks are apart."""

from __future__ import annotations

from typing import Final

import msgspec

from godwit_protocol.events import Lane, Recorded
from godwit_protocol.events import migration as ev

AHEAD_NS: Final = 7_000_000_000
"""The destination's clock, of the source's."""
ERROR_NS: Final = 80_000
_INSTANTS: Final = ("received_ns", "staged_ns", "go_heard_ns", "owned_ns", "first_step_ns")


def on_two_computers(recorded: Recorded) -> Recorded:
    """The destination counts in a boot of its own, and the offset was not measured."""
    envelope, event = recorded.envelope, recorded.event
    if envelope.lane is not Lane.DESTINATION:
        return recorded
    at_ns = envelope.monotonic_ns + AHEAD_NS
    envelope = msgspec.structs.replace(envelope, boot="another", monotonic_ns=at_ns)
    here = {name: ns for name in _INSTANTS if (ns := getattr(event, name, 0))}
    there = {name: ns + AHEAD_NS for name, ns in here.items()}
    return Recorded(envelope, msgspec.structs.replace(event, **there))


def measured(recorded: Recorded, off_by_ns: int = 0) -> Recorded:
    """The same, and the offset was measured: it is off by that much."""
    recorded = on_two_computers(recorded)
    if not isinstance(recorded.event, ev.FinalCopySent):
        return recorded
    offset_ns = AHEAD_NS + off_by_ns
    event = msgspec.structs.replace(
        recorded.event, clock_offset_ns=offset_ns, clock_error_ns=ERROR_NS
    )
    return Recorded(recorded.envelope, event)
