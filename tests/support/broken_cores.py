"""Protocols that are broken on purpose, made from the real cores by replacing single rows.

The production code has no flag for it: a table is rebuilt with another handler in one place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec

from godwit.proof.checker.cores import DESTINATION, SOURCE, Core, Effects, Found
from godwit_protocol import register as reg
from godwit_protocol.events import migration as ev
from godwit_protocol.roles import coordinator, destination, source
from godwit_protocol.roles import effects as fx
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.coordinator import CoordinatorState
from godwit_protocol.roles.destination_state import Phase as Target
from godwit_protocol.roles.inputs import Input
from godwit_protocol.roles.source_state import Phase as Origin
from godwit_protocol.roles.table import Row, Table

Result = tuple[Any, Effects]
Handler = Callable[[Any, Input, int], Result]

replace = msgspec.structs.replace
DUE_NS = 10**18


def source_with(rows: Mapping[tuple[Origin, type[Input]], Handler]) -> Core:
    """The source, with other handlers in some rows."""
    changed = {key: Row(handler, frozenset(Origin)) for key, handler in rows.items()}
    return dataclasses.replace(SOURCE, step=Table("source", {**source.TABLE.rows, **changed}).step)


def destination_with(rows: Mapping[tuple[Target, type[Input]], Handler]) -> Core:
    """The destination, with other handlers in some rows."""
    changed = {key: Row(handler, frozenset(Target)) for key, handler in rows.items()}
    table = Table("destination", {**destination.TABLE.rows, **changed})
    return dataclasses.replace(DESTINATION, step=table.step)


def source_does(phase: Origin, given: type[Input]) -> Handler:
    """What the real source does with an input."""
    return source.TABLE.rows[phase, given].handler


def destination_does(phase: Target, given: type[Input]) -> Handler:
    """What the real destination does with an input."""
    return destination.TABLE.rows[phase, given].handler


# The five that the proof must catch.


def resumes_on_a_lost_acknowledgement() -> Core:
    """The register does not answer whether B stands; the source takes it for granted and runs."""
    resume = source_does(Origin.STAGING, inp.PeerRefused)
    return source_with({(Origin.ABORTING, inp.CasUnclear): resume})


def trusts_the_register_alone() -> Core:
    """B stands: the source takes the machine back without asking the destination."""
    settled = source_does(Origin.ABORTING, inp.CasSettled)
    reclaim = source_does(Origin.AWAITING_QUARANTINE, inp.PeerQuarantined)

    def take_back_at_once(state: Any, given: Input, now_ns: int) -> Result:
        after, effects = settled(state, given, now_ns)
        if after.phase is not Origin.AWAITING_QUARANTINE:
            return after, effects
        reclaiming, more = reclaim(after, inp.PeerQuarantined(), now_ns)
        return replace(reclaiming, quarantined=False), (*effects, *more)

    return source_with({(Origin.ABORTING, inp.CasSettled): take_back_at_once})


def claims_without_fencing() -> Core:
    """The source is silent: the destination takes it for dead."""
    claim = destination_does(Target.STAGED, inp.PeerFenced)
    return destination_with({(Target.STAGED, inp.Tick): claim})


def drops_the_image_on_a_local_failure() -> Core:
    """Something failed at the destination: it cleans up, what it staged too."""
    give_up = destination_does(Target.RECEIVING, inp.OperationFailed)
    return destination_with({(Target.STAGED, inp.OperationFailed): give_up})


def resumes_on_a_timeout_after_go() -> Core:
    """ACTIVE does not come in time: the source runs the machine again."""
    resume = source_does(Origin.STAGING, inp.PeerRefused)
    return source_with({(Origin.COMMITTED, inp.Tick): resume})


# One for each guard that the checker was the reason for.


def recovering(recover: Callable[[Any, AbstractSet[str], Found], Result]) -> Core:
    """The destination, with another recovery."""
    return dataclasses.replace(DESTINATION, recover=recover)


def forgets_the_vmm_after_a_restart() -> Core:
    """A restarted destination does not look whether its VMM runs."""
    return recovering(
        lambda begun, facts, found: DESTINATION.recover(begun, facts, min(found, Found.IMAGE))
    )


def believes_the_register_before_its_promise() -> Core:
    """A restarted destination runs what it promised not to run, if the register names it."""

    def recover(begun: Any, facts: AbstractSet[str], found: Found) -> Result:
        record = begun.register.record
        if ev.ImageStaged.TYPE in facts and reg.may_run(record, begun.host):
            facts = type(facts)(set(facts) - {ev.ImageQuarantined.TYPE})
        return DESTINATION.recover(begun, facts, found)

    return recovering(recover)


def claims_what_the_source_took_back() -> Core:
    """A restarted destination that had begun to claim goes on, whoever took the machine since."""

    def recover(begun: Any, facts: AbstractSet[str], found: Found) -> Result:
        record = begun.register.record
        if ev.ActivationStarted.TYPE in facts and reg.may_run(record, begun.source):
            cas = fx.CompareAndSet(
                record=reg.moved(record, begun.host, begun.migration),
                expected_sequence=begun.register.sequence,
            )
            return replace(begun, phase=Target.ACTIVATING), (cas,)
        return DESTINATION.recover(begun, facts, found)

    return recovering(recover)


def discards_what_the_vmm_has_loaded() -> Core:
    """A restarted destination takes no image for whole that its journal does not call so."""
    return recovering(
        lambda begun, facts, found: DESTINATION.recover(
            begun, facts, Found.NOTHING if found is Found.IMAGE else found
        )
    )


def refuses_without_a_promise() -> Core:
    """An image that is loaded is refused on the link alone: the journal knows nothing of it."""
    give_up = destination_does(Target.RECEIVING, inp.ImageBad)
    return destination_with({(Target.LOADING, inp.ImageBad): give_up})


def aborts_by_the_link_alone() -> Core:
    """That the source wants the machine back is said on the link, and not in the log."""
    settled = source_does(Origin.ABORTING, inp.CasSettled)

    def say_only(state: Any, given: Input, now_ns: int) -> Result:
        after, effects = settled(state, given, now_ns)
        return after, tuple(
            effect
            for effect in effects
            if not (isinstance(effect, fx.Append) and isinstance(effect.event, ev.AbortIntended))
        )

    return source_with({(Origin.ABORTING, inp.CasSettled): say_only})


def never_claims() -> Core:
    """The source's host is proven dead, and the destination goes on waiting for GO."""
    wait = destination_does(Target.STAGED, inp.AbortWanted)
    return destination_with({(Target.STAGED, inp.PeerFenced): wait})


def opens_the_gate_before_the_register_answers() -> Core:
    """The destination's claim is on its way: it runs already."""
    opening = destination_does(Target.ACTIVATING, inp.CasSettled)

    def open_gate(state: Any, _given: Input, now_ns: int) -> Result:
        return opening(state, inp.CasSettled(won=True, standing=state.register), now_ns)

    return destination_with({(Target.ACTIVATING, inp.CasUnclear): open_gate})


def releases_on_the_register_alone() -> Core:
    """The register names the destination: the source frees the memory before ACTIVE is heard."""
    look = source_does(Origin.COMMITTED, inp.RegisterRead)
    release = source_does(Origin.COMMITTED, inp.PeerActive)

    def release_at_once(state: Any, given: Input, now_ns: int) -> Result:
        after, _ = look(state, given, now_ns)
        if after.phase is Origin.YIELDED:
            return release(after, inp.PeerActive(epoch=2), now_ns)
        return state, ()

    def tick(state: Any, given: Input, now_ns: int) -> Result:
        return replace(state, deadline_ns=DUE_NS), (fx.ReadRegister(),)

    return source_with(
        {
            (Origin.COMMITTED, inp.Tick): tick,
            (Origin.COMMITTED, inp.RegisterRead): release_at_once,
        }
    )


def does_not_journal_the_taking_back() -> Core:
    """The source runs again on the register's word, and its journal knows nothing of it."""

    def forgetful(row: Handler) -> Handler:
        def step(state: Any, given: Input, now_ns: int) -> Result:
            after, effects = row(state, given, now_ns)
            return after, tuple(
                effect
                for effect in effects
                if not (
                    isinstance(effect, fx.Append) and isinstance(effect.event, ev.MachineTakenBack)
                )
            )

        return step

    taken = source_does(Origin.RECLAIMING, inp.CasSettled)
    ordered = source_does(Origin.DOUBTING, inp.RunOrdered)
    return source_with(
        {
            (Origin.RECLAIMING, inp.CasSettled): forgetful(taken),
            (Origin.TAKING_BACK, inp.CasSettled): forgetful(taken),
            (Origin.DOUBTING, inp.RunOrdered): forgetful(ordered),
            (Origin.YIELDED, inp.RunOrdered): forgetful(ordered),
        }
    )


def ends_without_a_word() -> Core:
    """The source runs again, and its journal does not say that it has ended its part."""
    resumed = source_does(Origin.RESUMING, inp.Resumed)

    def silently(state: Any, given: Input, now_ns: int) -> Result:
        after, effects = resumed(state, given, now_ns)
        return after, tuple(effect for effect in effects if not isinstance(effect, fx.Append))

    return source_with({(Origin.RESUMING, inp.Resumed): silently})


def takes_its_own_lost_write_for_anothers() -> Core:
    """Ordered to run over a register that went back, the source takes the newest epoch that was
    seen for that of whoever wrote what still stands.
    """

    def raised(row: Handler) -> Handler:
        def step(state: Any, given: Input, now_ns: int) -> Result:
            assert isinstance(given, inp.RunOrdered)
            over = reg.raised(given.standing, given.seen)
            return row(state, inp.RunOrdered(standing=over), now_ns)

        return step

    phases = (Origin.DOUBTING, Origin.YIELDED)
    return source_with(
        {(phase, inp.RunOrdered): raised(source_does(phase, inp.RunOrdered)) for phase in phases}
    )


def never_gives_up(
    state: CoordinatorState, given: Input, now_ns: int
) -> tuple[CoordinatorState, tuple[fx.Effect, ...]]:
    """The coordinator does not hear that a host is off."""
    if isinstance(given, inp.ImageLost) and given.is_off:
        return state, ()
    return coordinator.step(state, given, now_ns)


def ends_too_early(
    state: CoordinatorState, given: Input, now_ns: int
) -> tuple[CoordinatorState, tuple[fx.Effect, ...]]:
    """One host has nothing of the machine: the coordinator does not ask what the other one has."""
    if isinstance(given, inp.ImageLost | inp.Refused):
        state = replace(state, lost=(state.destination, state.source))
    return coordinator.step(state, given, now_ns)


def writes_off_on_one_proof(
    state: CoordinatorState, given: Input, now_ns: int
) -> tuple[CoordinatorState, tuple[fx.Effect, ...]]:
    """One host is off: the coordinator takes it for both."""
    is_proof = isinstance(given, inp.ImageLost) and given.is_off
    return (ends_too_early if is_proof else coordinator.step)(state, given, now_ns)
