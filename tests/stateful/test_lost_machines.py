"""Ends of a switchover that no story tells: both VMMs dead, a claim that a restart forgot."""

from __future__ import annotations

import msgspec
import pytest
from parts import COORDINATOR, DESTINATION, SOURCE
from situations import SOON_NS, registers, situations

from godwit_protocol.events import migration as ev
from godwit_protocol.events.machine import MachineFailed
from godwit_protocol.events.migration import AbortReason
from godwit_protocol.register import NO_REGISTER
from godwit_protocol.roles import coordinator, destination, source
from godwit_protocol.roles import effects as fx
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.destination_state import DestinationState
from godwit_protocol.roles.destination_state import Phase as There
from godwit_protocol.roles.effects import Effect
from godwit_protocol.roles.source_state import Phase as Here
from godwit_protocol.roles.source_state import SourceState

_replace = msgspec.structs.replace


def _source(phase: Here, register: str) -> SourceState:
    plain: SourceState = situations(SOURCE, phase)[0].state
    return _replace(plain, register=registers()[register])


def _destination(phase: There, register: str) -> DestinationState:
    plain: DestinationState = situations(DESTINATION, phase)[0].state
    return _replace(plain, register=registers()[register])


def _told(effects: tuple[Effect, ...]) -> list[ev.Event]:
    return [effect.event for effect in effects if isinstance(effect, fx.Append)]


def _reason(effects: tuple[Effect, ...]) -> AbortReason:
    (finish,) = [effect for effect in effects if isinstance(effect, fx.Finish)]
    return finish.reason


DEAD = inp.OperationFailed(message="the VMM is dead")


def test_a_source_that_has_nothing_ends_once_the_destination_has_nothing_either() -> None:
    resuming = _source(Here.RESUMING, "S2(2)")
    doubting, effects = source.step(resuming, DEAD, SOON_NS)
    assert doubting.phase is Here.DOUBTING, "the destination may have the last image"
    assert any(isinstance(event, MachineFailed) for event in _told(effects))
    ended, effects = source.step(doubting, inp.PeerFenced(), SOON_NS)
    assert ended.phase is Here.ABANDONED
    assert _reason(effects) is AbortReason.MACHINE_FAILED
    (abandoned,) = _told(effects)
    assert isinstance(abandoned, ev.MigrationAbandoned)
    assert "VMMs of both hosts are dead" in abandoned.message


def test_nothing_ends_while_the_destination_may_have_an_image() -> None:
    doubting, _ = source.step(_source(Here.RESUMING, "S2(2)"), DEAD, SOON_NS)
    for given in (inp.PeerQuarantined(), inp.LinkLost(message="gone"), inp.Tick()):
        after, effects = source.step(doubting, given, SOON_NS)
        assert after.phase is Here.DOUBTING
        assert not any(isinstance(effect, fx.Finish) for effect in effects)


def test_a_source_whose_peer_is_known_to_be_dead_ends_when_its_own_vmm_is() -> None:
    resuming = _replace(_source(Here.RESUMING, "S2(2)"), fenced=True)
    ended, effects = source.step(resuming, DEAD, SOON_NS)
    assert ended.phase is Here.ABANDONED
    assert _reason(effects) is AbortReason.MACHINE_FAILED


@pytest.mark.parametrize("is_fenced", [True, False])
def test_a_destination_without_a_vmm_says_so_to_a_source_that_has_none(*, is_fenced: bool) -> None:
    activating = _replace(_destination(There.ACTIVATING, "B(1)"), fenced=is_fenced)
    after, effects = destination.step(activating, DEAD, SOON_NS)
    (told,) = _told(effects)
    if is_fenced:
        assert after.phase is There.FAILED
        assert isinstance(told, MachineFailed)
    else:
        assert after.phase is There.QUARANTINED, "the source has the image, and is to take it back"
        assert isinstance(told, ev.ImageQuarantined)


def test_a_claim_that_a_restarted_destination_was_not_shown_is_found_later() -> None:
    """It waits in STAGED, for nobody will say GO again; then the register shows its own D."""
    staged = _replace(_destination(There.STAGED, "S(1)"), register=NO_REGISTER)
    still, _ = destination.step(staged, inp.RegisterRead(standing=registers()["S(1)"]), SOON_NS)
    assert still.phase is There.STAGED
    shown = inp.RegisterRead(standing=registers()["D(2)"])
    opening, effects = destination.step(still, shown, SOON_NS)
    assert opening.phase is There.OPENING
    assert effects == (fx.OpenGate(epoch=2),)


@pytest.mark.parametrize("other", ["another's D(2)", "D(2) of a third host", "another's D(2) here"])
def test_a_claim_of_another_migration_opens_no_gate(other: str) -> None:
    staged = _destination(There.STAGED, "S(1)")
    after, effects = destination.step(
        staged, inp.RegisterRead(standing=registers()[other]), SOON_NS
    )
    assert after.phase is There.STAGED
    assert effects == ()


@pytest.mark.parametrize("phase", coordinator.Phase)
@pytest.mark.parametrize(
    ("lost", "left"),
    [
        ((), (SOURCE.host, DESTINATION.host)),
        ((SOURCE.host,), (DESTINATION.host,)),
        ((DESTINATION.host, "host-3"), (SOURCE.host,)),
        ((SOURCE.host, DESTINATION.host), ()),
    ],
)
def test_of_a_machine_that_neither_stayed_nor_moved_proof_is_due_of_each_host_not_known_lost(
    phase: coordinator.Phase, lost: tuple[str, ...], left: tuple[str, ...]
) -> None:
    state = _replace(situations(COORDINATOR, phase)[0].state, lost=lost)
    is_open = phase in (coordinator.Phase.MOVING, coordinator.Phase.ABORTING)
    assert coordinator.unproven(state) == (left if is_open else ())
