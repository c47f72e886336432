"""What seeds have shown, told again without the simulator."""

import msgspec
import pytest

from godwit.host.role import RoleRunner
from godwit.runtime.journal import JournalFailedError
from godwit_protocol import register as reg
from godwit_protocol.events import migration as ev
from godwit_protocol.events.machine import MachineFailed
from godwit_protocol.events.migration import AbortReason
from godwit_protocol.machine import MachineSpec
from godwit_protocol.roles import destination, recovery, source, succession
from godwit_protocol.roles import effects as fx
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.destination import DestinationState
from godwit_protocol.roles.source_state import Phase as SourcePhase
from godwit_protocol.roles.source_state import SourceState
from orders import preparation

OURS, LATER = "ours", "later"
STOPPED = "the machine was stopped"
SPEC = MachineSpec(name="m", guest="g:G", ram_bytes=4096)


def record(value: reg.RegisterValue, owner: str, epoch: int, migration: str) -> reg.RegisterRecord:
    return reg.RegisterRecord(
        value=value, machine="m", owner=owner, epoch=epoch, migration=migration
    )


BACK_AT_THE_SOURCE = record(reg.RegisterValue.MOVED, "a", 4, LATER)


def begun_destination(standing: reg.RegisterRecord = BACK_AT_THE_SOURCE) -> DestinationState:
    return _begin_destination(standing)[0]


def _begin_destination(
    standing: reg.RegisterRecord,
) -> tuple[DestinationState, tuple[fx.Effect, ...]]:
    ordered = preparation(SPEC, "a", "b", register_epoch=2)
    view = reg.RegisterView(standing, 9)
    return destination.begin(ordered, view, migration=OURS, now_ns=0)


STILL_HERE = record(reg.RegisterValue.STARTED, "a", 2, "")


def begun_source(standing: reg.RegisterRecord = BACK_AT_THE_SOURCE) -> SourceState:
    started = ev.MigrationStarted(
        source="a",
        destination="b",
        address="b",
        port=1,
        token=b"",
        register_epoch=2,
        limits=ev.Limits(),
        verify=ev.Verify.OFF,
    )
    view = reg.RegisterView(standing, 9)
    return source.begin(started, "m", view, migration=OURS, now_ns=0)[0]


@pytest.mark.parametrize(
    ("standing", "gone_on"),
    [
        (None, False),
        (record(reg.RegisterValue.STARTED, "a", 2, ""), False),
        (record(reg.RegisterValue.ABORT_INTENDED, "a", 2, OURS), False),
        (record(reg.RegisterValue.TAKEN_BACK, "a", 3, OURS), False),
        (record(reg.RegisterValue.MOVED, "b", 3, OURS), False),
        (record(reg.RegisterValue.MOVED, "c", 4, LATER), True),
        (record(reg.RegisterValue.STOPPED, "b", 3, ""), True),
        (BACK_AT_THE_SOURCE, True),
    ],
)
def test_only_a_later_record_of_another_says_that_the_machine_has_gone_on(
    standing: reg.RegisterRecord | None, gone_on: bool
) -> None:
    assert reg.has_gone_on(standing, OURS, 2) is gone_on


ACTIVATING = frozenset({ev.ImageStaged.TYPE, ev.ActivationStarted.TYPE})


@pytest.mark.parametrize("image_left", [False, True])
@pytest.mark.parametrize("facts", [frozenset[str](), ACTIVATING])
def test_a_destination_of_the_past_writes_no_register(
    facts: frozenset[str], image_left: bool
) -> None:
    state, effects = succession.destination_after(begun_destination(), facts, image_left=image_left)
    assert not any(isinstance(effect, fx.CompareAndSet | fx.OpenGate) for effect in effects)
    assert isinstance(effects[-1], fx.FreeMemory if image_left else fx.Finish)
    if facts and not image_left:
        assert state.phase is destination.Phase.ACTIVE


def test_a_source_of_the_past_that_stunned_nothing_moved_nothing() -> None:
    state, effects = succession.source_after(begun_source(), frozenset())
    assert state.phase is SourcePhase.ABANDONED
    told = [effect.event for effect in effects if isinstance(effect, fx.Append)]
    assert told == [ev.MigrationAbandoned(reason=AbortReason.SUPERSEDED, message=STOPPED)]
    assert not any(isinstance(effect, fx.FreeMemory) for effect in effects)


@pytest.mark.parametrize("value", [reg.RegisterValue.STOPPED, reg.RegisterValue.LOST])
def test_a_source_that_is_restarted_resumes_no_machine_that_was_stopped(
    value: reg.RegisterValue,
) -> None:
    """The migration came while it was being stopped; its service died in between (seed 50558)."""
    stopped = begun_source(record(value, "a", 2, ""))
    state, effects = recovery.recover_source(stopped, frozenset(), 0, image_left=True)
    assert state.phase is SourcePhase.ABANDONED
    told = [effect.event for effect in effects if isinstance(effect, fx.Append)]
    assert told == [ev.MigrationAbandoned(reason=AbortReason.SUPERSEDED, message=STOPPED)]
    assert not any(isinstance(effect, fx.ResumeMachine) for effect in effects)


def test_a_destination_takes_for_whole_what_its_vmm_has_loaded() -> None:
    """Killed in the middle of the journal's write of STAGED, its next life freed the last image:
    the source's VMM had died before it ran again (seed 89580).
    """
    state, effects = recovery.recover_destination(
        begun_destination(STILL_HERE), frozenset(), 0, machine_runs=False, image_loaded=True
    )
    assert state.phase is destination.Phase.STAGED
    staged, reading = effects
    assert isinstance(staged, fx.Append) and isinstance(staged.event, ev.ImageStaged)
    assert staged.durability is fx.Durability.JOURNALED, "its next life may find the VMM dead"
    assert reading == fx.ReadRegister()


def test_a_destination_that_refuses_what_may_be_loaded_promises_first_not_to_run_it() -> None:
    """The source resumes at the refusal, and writes no register."""
    loading = msgspec.structs.replace(
        begun_destination(STILL_HERE), phase=destination.Phase.LOADING
    )
    bad = inp.ImageBad(reason=AbortReason.VERIFICATION_FAILED, message="the VMM is silent")
    _, effects = destination.step(loading, bad, 0)
    promise, refusal, freeing = effects
    assert isinstance(promise, fx.Append) and promise.durability is fx.Durability.JOURNALED
    assert isinstance(refusal, fx.Say)
    assert freeing == fx.FreeMemory()
    state, effects = recovery.recover_destination(
        *(begun_destination(STILL_HERE), {promise.event.TYPE}, 0),
        machine_runs=False,
        image_loaded=True,
    )
    assert state.phase is destination.Phase.DISCARDING
    assert effects == (fx.FreeMemory(),)


@pytest.mark.parametrize("released", [False, True])
def test_a_source_of_the_past_frees_what_the_machine_left(released: bool) -> None:
    facts = {ev.MachineStunned.TYPE, ev.GoGiven.TYPE}
    facts |= {ev.MachineReleased.TYPE} if released else set()
    state, effects = succession.source_after(begun_source(), facts)
    assert state.phase is SourcePhase.RELEASING
    told = [effect.event for effect in effects if isinstance(effect, fx.Append)]
    assert told == ([] if released else [ev.MachineReleased()])
    assert isinstance(effects[-1], fx.FreeMemory)


def test_a_machine_that_failed_before_it_was_taken_back_was_given_up_by_nobody() -> None:
    facts = {MachineFailed.TYPE}
    state, effects = recovery.recover_source(begun_source(STILL_HERE), facts, 0, image_left=True)
    assert state.phase is SourcePhase.RESUMING
    assert isinstance(effects[0], fx.ResumeMachine)
    taken_back = facts | {ev.MachineStunned.TYPE, ev.MachineTakenBack.TYPE}
    state, _ = recovery.recover_source(begun_source(STILL_HERE), taken_back, 0, image_left=True)
    assert state.phase is SourcePhase.DOUBTING


async def test_a_role_whose_journal_takes_nothing_ends_at_once() -> None:
    done: list[fx.Effect] = []

    def perform(effect: fx.Effect) -> None:
        if isinstance(effect, fx.Append):
            raise JournalFailedError("no space left on device")
        done.append(effect)

    runner: RoleRunner[DestinationState] = RoleRunner(destination, perform, lambda: 0)
    runner.tell(inp.OperationFailed(message="no memory"))
    prepare = fx.PrepareMachine(spec=SPEC, placements=())
    with pytest.raises(JournalFailedError):
        await runner.run(begun_destination(STILL_HERE), (prepare,))
    assert done == [prepare]


STARTED_ANEW = record(reg.RegisterValue.STARTED, "c", 4, "")
"""The machine died at the destination, was stopped there and started again on a third host."""


def yielded_source() -> SourceState:
    moved = reg.RegisterView(record(reg.RegisterValue.MOVED, "b", 3, OURS), 10)
    begun = begun_source(STILL_HERE)
    return msgspec.structs.replace(
        begun, phase=SourcePhase.YIELDED, register=moved, fenced=True, alarmed=True
    )


@pytest.mark.parametrize(
    "given",
    [
        inp.RunOrdered(standing=reg.RegisterView(STARTED_ANEW, 12)),
        inp.RegisterRead(standing=reg.RegisterView(STARTED_ANEW, 12)),
    ],
)
def test_a_source_in_doubt_runs_no_machine_that_was_started_anew_elsewhere(
    given: inp.Input,
) -> None:
    """An operator, asked by the old migration's alarm, had its image run beside the new machine."""
    state, effects = source.step(yielded_source(), given, 0)
    assert state.phase is SourcePhase.RELEASING
    assert fx.FreeMemory() in effects
    assert not any(isinstance(effect, fx.CompareAndSet | fx.ResumeMachine) for effect in effects)


def test_an_order_that_was_late_for_the_register_takes_nothing_from_it() -> None:
    """What a compare-and-set that lost has shown must not be overruled by the next order."""
    reclaiming = msgspec.structs.replace(yielded_source(), phase=SourcePhase.RECLAIMING)
    lost = inp.CasSettled(won=False, standing=reg.RegisterView(STARTED_ANEW, 12))
    state, effects = source.step(reclaiming, lost, 0)
    assert state.phase is SourcePhase.RELEASING
    assert fx.FreeMemory() in effects


@pytest.mark.parametrize("phase", [destination.Phase.QUARANTINED, destination.Phase.DOUBTING])
def test_a_destination_in_doubt_runs_no_machine_that_was_started_anew_elsewhere(
    phase: destination.Phase,
) -> None:
    state = msgspec.structs.replace(begun_destination(STILL_HERE), phase=phase, fenced=True)
    order = inp.RunOrdered(standing=reg.RegisterView(STARTED_ANEW, 12))
    after, effects = destination.step(state, order, 0)
    assert after.phase is destination.Phase.DISCARDING
    assert effects == (fx.FreeMemory(),)


WENT_BACK = reg.RegisterView(STILL_HERE, 9)


def over(seen: reg.RegisterRecord) -> inp.RunOrdered:
    """An order to run the machine, over a register that has lost what it showed before."""
    return inp.RunOrdered(standing=WENT_BACK, seen=reg.RegisterView(seen, 10))


def restarted_source(*facts: str) -> SourceState:
    """By default one that had taken the machine back. Its host knows that the register has lost a
    write.
    """
    facts = facts or (ev.MachineStunned.TYPE, ev.MachineTakenBack.TYPE)
    blind = msgspec.structs.replace(begun_source(), register=reg.RegisterView(None, 10))
    return recovery.recover_source(blind, {*facts}, 0, image_left=True)[0]


def test_a_source_whose_own_write_was_lost_keeps_its_image_and_runs_it_on_order() -> None:
    """What still stood was read in the epoch that was lost, as if somebody else had written it: the
    order that was to run the machine freed the only image of it.
    """
    taken_back = record(reg.RegisterValue.TAKEN_BACK, "a", 3, OURS)
    state, effects = source.step(restarted_source(), over(taken_back), 0)
    assert state.phase is SourcePhase.RECLAIMING
    (cas,) = effects
    assert isinstance(cas, fx.CompareAndSet)
    assert cas.record.epoch == 4, "no epoch has two owners"
    assert cas.expected_sequence == 9


def test_a_destination_whose_own_write_was_lost_keeps_its_image_and_runs_it_on_order() -> None:
    state = msgspec.structs.replace(
        begun_destination(STILL_HERE),
        phase=destination.Phase.DOUBTING,
        register=reg.RegisterView(None, 10),
        fenced=True,
    )
    moved = record(reg.RegisterValue.MOVED, "b", 3, OURS)
    after, effects = destination.step(state, over(moved), 0)
    assert after.phase is destination.Phase.ACTIVATING
    (cas,) = [effect for effect in effects if isinstance(effect, fx.CompareAndSet)]
    assert cas.record.epoch == 4, "no epoch has two owners"


def test_what_was_seen_of_another_ends_a_doubt_also_if_the_register_has_lost_it() -> None:
    state, effects = source.step(restarted_source(), over(STARTED_ANEW), 0)
    assert state.phase is SourcePhase.RELEASING
    assert fx.FreeMemory() in effects
    doubting = msgspec.structs.replace(
        begun_destination(STILL_HERE),
        phase=destination.Phase.DOUBTING,
        register=reg.RegisterView(None, 10),
        fenced=True,
    )
    after, effects = destination.step(doubting, over(STARTED_ANEW), 0)
    assert after.phase is destination.Phase.DISCARDING
    assert effects == (fx.FreeMemory(),)


BACK_HERE = record(reg.RegisterValue.TAKEN_BACK, "a", 3, LATER)


@pytest.mark.parametrize(
    "given", [over(BACK_HERE), inp.RegisterRead(standing=reg.RegisterView(BACK_HERE, 11))]
)
def test_a_source_that_never_stunned_its_machine_does_not_say_that_it_left(
    given: inp.Input,
) -> None:
    """It ran on there in a later epoch, which the register had lost before the migration came. The
    migration counted as completed, and what the machine sat under was released.
    """
    state, effects = source.step(restarted_source(ev.PrecopyStarted.TYPE), given, 0)
    assert state.phase is SourcePhase.ABANDONED
    assert fx.FreeMemory not in [type(effect) for effect in effects]
    ends = [effect.event for effect in effects if isinstance(effect, fx.Append)]
    assert [event.reason for event in ends if isinstance(event, ev.MigrationAbandoned)] == [
        AbortReason.SUPERSEDED
    ]


def test_a_host_that_the_machine_has_come_to_prepares_nothing_for_an_older_order() -> None:
    """It had made a new VMM in the place of the dead one, which nobody could stop afterwards."""
    here = record(reg.RegisterValue.MOVED, "b", 3, LATER)
    _, effects = _begin_destination(here)
    assert not any(isinstance(effect, fx.PrepareMachine) for effect in effects)
    assert any(
        isinstance(effect, fx.Append) and isinstance(effect.event, ev.PreparationRefused)
        for effect in effects
    )


def test_what_a_destination_saw_of_another_ends_its_doubt_also_if_the_register_has_lost_it() -> (
    None
):
    state = msgspec.structs.replace(
        begun_destination(STILL_HERE), phase=destination.Phase.DOUBTING, fenced=True
    )
    after, effects = destination.step(state, over(STARTED_ANEW), 0)
    assert after.phase is destination.Phase.DISCARDING
    assert effects == (fx.FreeMemory(),)
