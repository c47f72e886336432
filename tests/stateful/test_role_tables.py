"""What the roles' tables and sets of phases say, held against what the steps do."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import pytest
from parts import CORES, DESTINATION, SOURCE, START_NS, Role
from situations import Given, given_inputs, phases, situations

from godwit_protocol.errors import GodwitError, LocalProtocolError, RemoteProtocolError
from godwit_protocol.roles import destination_state, source_state
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.effects import Effect, Finish
from godwit_protocol.roles.inputs import PeerInput
from godwit_protocol.roles.source_state import Phase as Here
from godwit_protocol.roles.table import Table, ignored, row

STATES = {SOURCE: source_state, DESTINATION: destination_state}


@pytest.mark.parametrize("role", Role, ids=lambda role: role.value)
def test_what_has_no_row_is_refused_as_the_fault_of_whoever_said_it(role: Role) -> None:
    for phase in phases(role):
        state = situations(role, phase)[0].state
        for given in given_inputs(role):
            if (phase, type(given.told)) not in CORES[role].TABLE.rows:
                from_peer = isinstance(given.told, PeerInput)
                error = RemoteProtocolError if from_peer else LocalProtocolError
                told = f"^{role.value}: {type(given.told).__name__} is illegal in phase {phase}$"
                with pytest.raises(error, match=told) as refused:
                    CORES[role].step(state, given.told, given.now_ns)
                assert type(refused.value) is error


def test_a_step_that_leads_where_its_row_does_not_say_is_refused() -> None:
    state = situations(SOURCE, Here.CONNECTING)[0].state
    astray = Table("source", {(Here.CONNECTING, inp.Tick): row(_stand, Here.ABANDONED)})
    with pytest.raises(LocalProtocolError, match="led to connecting, which its row does not name"):
        astray.step(state, inp.Tick(), START_NS)
    right = Table("source", {(Here.CONNECTING, inp.Tick): row(_stand, Here.CONNECTING)})
    assert right.step(state, inp.Tick(), START_NS) == (state, ())


def _stand(state: Any, _given: inp.Input, _now_ns: int) -> tuple[Any, tuple[Effect, ...]]:
    return state, ()


def test_a_row_that_passes_over_says_so() -> None:
    assert ignored(Here.CONNECTING).passes_over
    assert not row(_stand, Here.CONNECTING).passes_over


@pytest.mark.parametrize("role", STATES, ids=lambda role: role.value)
def test_a_role_has_ended_just_where_it_says_that_it_has(role: Role) -> None:
    ended = {phase for phase, effects in _steps(role) if any(_is_finish(e) for e in effects)}
    assert ended == STATES[role].TERMINAL


def _is_finish(effect: Effect) -> bool:
    return isinstance(effect, Finish)


def _steps(role: Role) -> Iterator[tuple[StrEnum, tuple[Effect, ...]]]:
    for phase in phases(role):
        for given in given_inputs(role):
            if (phase, type(given.told)) in CORES[role].TABLE.rows:
                yield from _stepped(role, phase, given)


def _stepped(
    role: Role, phase: StrEnum, given: Given
) -> Iterator[tuple[StrEnum, tuple[Effect, ...]]]:
    for situation in situations(role, phase):
        try:
            after, effects = CORES[role].step(situation.state, given.told, given.now_ns)
        except (GodwitError, AssertionError):
            continue
        yield after.phase, effects


@pytest.mark.parametrize("role", STATES, ids=lambda role: role.value)
def test_an_order_is_taken_where_it_or_its_proof_is_heard(role: Role) -> None:
    """A source that has said GO hears the proof too; but its next deadline comes soon enough."""
    heard = {
        phase
        for (phase, given), each in CORES[role].TABLE.rows.items()
        if given in (inp.RunOrdered, inp.PeerFenced) and not each.passes_over
    }
    assert heard - {Here.COMMITTED} == STATES[role].MAY_BE_ORDERED
