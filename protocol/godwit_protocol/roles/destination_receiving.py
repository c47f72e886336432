"""The destination's steps before STAGED: nothing here is whole. See ``destination``."""

from __future__ import annotations

import msgspec

from .. import link
from ..events import migration as ev
from ..events.migration import AbortReason
from . import effects as fx
from . import inputs as inp
from .destination_endings import Result, discard, journaled, lagging, to_source, why
from .destination_state import GRACE_NS, LOOK_NS, DestinationState, Phase
from .inputs import Input

_replace = msgspec.structs.replace


def prepared(state: DestinationState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.Prepared)
    told = ev.DestinationPrepared(
        address=given.address, port=given.port, token=given.token, create_ns=given.create_ns
    )
    return _replace(state, phase=Phase.PREPARED), (lagging(told),)


def cannot_prepare(state: DestinationState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.OperationFailed)
    told = lagging(ev.PreparationRefused(message=given.message))
    after, effects = discard(state, AbortReason.DESTINATION_REFUSED, given.message)
    return after, (told, *effects)


def hello(state: DestinationState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.PeerHello)
    record = state.register.record
    if record is None or record.epoch != given.register_epoch or record.owner != state.source:
        message = f"the source claims epoch {given.register_epoch}, the register holds {record}"
        refused = fx.Say(message=link.Refuse(reason=AbortReason.SUPERSEDED, message=message))
        after, effects = discard(state, AbortReason.SUPERSEDED, message)
        return after, (refused, *effects)
    return _replace(state, phase=Phase.POPULATING), (fx.Populate(),)


def populated(state: DestinationState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.Populated)
    welcome = link.Welcome(version=link.LINK_VERSION, populate_ns=given.populate_ns)
    return _replace(state, phase=Phase.RECEIVING), (fx.Say(message=welcome),)


def round_received(state: DestinationState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.RoundReceived)
    applied = link.RoundApplied(
        round=given.round, pages=given.pages, applied_bytes=given.received_bytes
    )
    return state, (fx.Say(message=applied),)


def stage(state: DestinationState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.PeerStage)
    return _replace(state, phase=Phase.LOADING), (fx.LoadImage(verify=state.verify),)


def loaded(state: DestinationState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.ImageLoaded)
    staged = ev.ImageStaged(
        pages=given.pages,
        received_bytes=given.received_bytes,
        received_ns=given.received_ns,
        staged_ns=given.staged_ns,
        verified=state.verify,
        digests=given.digests,
    )
    after = _replace(
        state, phase=Phase.STAGED, deadline_ns=now_ns + LOOK_NS, alarm_ns=now_ns + GRACE_NS
    )
    return after, (journaled(staged, held=True), fx.Say(message=link.Staged()))


def give_up(state: DestinationState, given: Input, now_ns: int) -> Result:
    """Refuse. The source relies on it, though nothing is journaled: nothing is loaded here, and
    what is not, not even a restarted destination runs.
    """
    if isinstance(given, inp.Tick) and now_ns < state.deadline_ns:
        return state, ()
    reason, message = why(given)
    refused = fx.Say(message=link.Refuse(reason=reason, message=message))
    after, effects = discard(state, reason, message)
    return after, (refused, *effects)


def refuse_loaded(state: DestinationState, given: Input, now_ns: int) -> Result:
    """As ``give_up``, but the VMM may have loaded the image all the same: the promise not to run it
    is journaled, for the next life would take what is loaded for whole.
    """
    after, effects = give_up(state, given, now_ns)
    return after, (to_source(state, ev.ImageQuarantined(reason=after.abort_reason)), *effects)
