"""How the destination's part of a migration ends in discarding, whatever led there. See
``destination``.
"""

from __future__ import annotations

import msgspec

from ..events import Event
from ..events import migration as ev
from ..events.migration import AbortReason
from . import effects as fx
from . import inputs as inp
from .destination_state import DestinationState, Phase
from .effects import Durability, Effect
from .inputs import Input

Effects = tuple[Effect, ...]
Result = tuple[DestinationState, Effects]

_replace = msgspec.structs.replace


def discard(state: DestinationState, reason: AbortReason, message: str) -> Result:
    after = _replace(state, phase=Phase.DISCARDING, abort_reason=reason, abort_message=message)
    return after, (fx.FreeMemory(),)


def discarded(state: DestinationState, _given: Input, _now_ns: int) -> Result:
    told = ev.ImageDiscarded(reason=state.abort_reason, message=state.abort_message)
    return _replace(state, phase=Phase.DISCARDED), (
        journaled(told),
        fx.CloseLink(),
        fx.Finish(reason=state.abort_reason),
    )


def not_discarded(state: DestinationState, given: Input, _now_ns: int) -> Result:
    """Nothing runs here, and nothing will; but the memory is not free."""
    assert isinstance(given, inp.MemoryLeft)
    told = ev.MemoryLeft(message=given.message)
    return _replace(state, phase=Phase.DISCARDED), (
        journaled(told),
        fx.CloseLink(),
        fx.Finish(reason=state.abort_reason),
    )


def source_runs(state: DestinationState, _given: Input, _now_ns: int) -> Result:
    reason = state.abort_reason or AbortReason.CANCELLED
    return discard(state, reason, "the source runs the machine")


def why(given: Input) -> tuple[AbortReason, str]:
    match given:
        case inp.LinkLost():
            return AbortReason.SOURCE_LOST, given.message
        case inp.PeerAbort():
            return given.reason, "the source aborted"
        case inp.PeerRuns():
            return AbortReason.CANCELLED, "the source runs the machine"
        case inp.AbortWanted() | inp.ImageBad():
            return given.reason, given.message
        case inp.OperationFailed():
            return AbortReason.DESTINATION_REFUSED, given.message
        case _:
            return AbortReason.DEADLINE_PASSED, "the deadline passed"


def lagging(event: Event) -> Effect:
    return fx.Append(event=event, durability=Durability.LAGGING)


def journaled(event: Event, *, held: bool = False) -> Effect:
    return fx.Append(event=event, durability=Durability.JOURNALED, held=held)


def to_source(state: DestinationState, event: Event) -> Effect:
    to = fx.Address(state.source, fx.Service.SOURCE_HOST)
    return fx.Append(event=event, durability=Durability.JOURNALED, to=to)
