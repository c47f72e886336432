"""Every phase of every role and every input: a row that keeps its word, or a typed error.

The states are real ones: taken from worlds that were driven there, well or with one fault.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from checks import check_end, check_lanes
from harness import World
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from parts import COORDINATOR, DESTINATION, SOURCE, START_NS, Role
from past_failures import both_hosts_gone
from scenarios import (
    GOLDEN,
    one_fault_worlds,
    register_taken_by_a_stranger,
    taken_back_and_broken,
)

from godwit.documents.event_writers import ADDRESSED, LANES
from godwit.documents.generate_docs import main
from godwit_protocol import codec
from godwit_protocol.diagram import full_table, state_diagram
from godwit_protocol.errors import LocalProtocolError, RemoteProtocolError
from godwit_protocol.events import EVENT_TYPES
from godwit_protocol.events import migration as ev
from godwit_protocol.roles import coordinator, destination, source, source_state
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.effects import (
    Append,
    CompareAndSet,
    Durability,
    OpenGate,
    PauseMachine,
)
from godwit_protocol.roles.inputs import Input, PeerInput
from godwit_protocol.roles.table import Table
from structs_of import structs

PHASES: dict[Role, type[StrEnum]] = {
    SOURCE: source_state.Phase,
    DESTINATION: destination.Phase,
    COORDINATOR: coordinator.Phase,
}
TABLES: dict[Role, Table[Any]] = {
    SOURCE: source.TABLE,
    DESTINATION: destination.TABLE,
    COORDINATOR: coordinator.TABLE,
}
INPUTS = [
    kind
    for kind in vars(inp).values()
    if isinstance(kind, type) and issubclass(kind, Input) and kind not in (Input, PeerInput)
]
SAMPLES_MAX = 12
PAIRS = [(role, phase) for role in Role for phase in PHASES[role]]


@cache
def worlds() -> tuple[World, ...]:
    return (*one_fault_worlds(), *(scenario() for scenario in GOLDEN.values()))


@cache
def samples() -> dict[tuple[Role, str], list[Any]]:
    """Real states by role and phase."""
    found: dict[tuple[Role, str], dict[Any, None]] = {}
    strange = (taken_back_and_broken(), register_taken_by_a_stranger(), both_hosts_gone())
    for world in (*worlds(), *strange):
        for key, states in world.samples.items():
            kept = found.setdefault(key, {})
            for state in states:
                if len(kept) < SAMPLES_MAX:
                    kept.setdefault(repr(state), state)
    return {key: list(kept.values()) for key, kept in found.items()}


def beginnings(role: Role, phase: StrEnum) -> list[Any]:
    found = samples().get((role, str(phase)), [])
    assert found, f"no world brings the {role.value} to {phase}"
    return found


@st.composite
def given_inputs(draw: st.DrawFn, kind: type[Input]) -> Input:
    """Any input of the kind that its maker could make: who won a write knows what stands."""
    made = draw(structs(kind))
    if isinstance(made, inp.CasSettled) and made.won and made.standing.record is None:
        return inp.CasSettled(won=False, standing=made.standing)
    return made


@pytest.mark.parametrize(
    ("role", "phase"), PAIRS, ids=lambda item: str(getattr(item, "value", item))
)
def test_every_input_in_every_phase_is_a_row_or_a_typed_error(role: Role, phase: StrEnum) -> None:
    table, states = TABLES[role], beginnings(role, phase)

    @settings(
        max_examples=6,
        deadline=None,
        phases=[Phase.generate],  # shrinking so many draws would take minutes
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data(), late_ns=st.sampled_from([0, 10**9, 10**12]))
    def holds(data: st.DataObject, late_ns: int) -> None:
        for kind in INPUTS:
            state = data.draw(st.sampled_from(states))
            told = data.draw(given_inputs(kind))
            row = table.rows.get((phase, kind))
            if row is None:
                error = RemoteProtocolError if issubclass(kind, PeerInput) else LocalProtocolError
                with pytest.raises(error, match=kind.__name__):
                    table.step(state, told, START_NS + late_ns)
                continue
            try:
                after, effects = table.step(state, told, START_NS + late_ns)
            except LocalProtocolError as refused:
                assert "does not name" not in refused.message
                continue
            assert after.phase in row.leads_to
            for effect in effects:
                if isinstance(effect, Append):
                    codec.encode_body(effect.event)

    holds()


@pytest.mark.parametrize("role", Role, ids=lambda role: role.value)
def test_each_arrow_of_the_diagram_is_taken_by_some_world(role: Role) -> None:
    """At least the phases: an arrow may need proof or an operator that no world here brings."""
    reached = {phase for who, phase in samples() if who is role}
    assert reached == {str(phase) for phase in PHASES[role]}


def test_one_trouble_anywhere_and_all_comes_right_or_is_said() -> None:
    assert len(worlds()) > 60
    for world in worlds():
        check_end(world)
        check_lanes(world)


def test_the_only_good_image_is_kept_when_the_machine_taken_back_does_not_run() -> None:
    world = taken_back_and_broken()
    assert world.phase(SOURCE) == "doubting"
    assert world.phase(DESTINATION) == "quarantined"
    assert world.vmms[DESTINATION].whole
    assert world.vmms[DESTINATION].pages == world.at_stun
    assert ev.DoubtRaised.TYPE in {event.envelope.type for event in world.log.recorded}


def test_a_destination_holds_still_when_a_stranger_holds_the_register() -> None:
    world = register_taken_by_a_stranger()
    assert world.phase(DESTINATION) == "doubting"
    assert not world.vmms[DESTINATION].executes
    assert ev.DoubtRaised.TYPE in {event.envelope.type for event in world.log.recorded}


def test_nothing_waits_for_the_log_during_the_stun_but_the_ownership() -> None:
    for world in worlds():
        waits = {
            type(effect.event)
            for role, effect in world.effects
            if isinstance(effect, Append)
            and effect.durability is Durability.LOGGED
            and role is not COORDINATOR
        }
        assert waits <= {ev.StunIntended}
    pausing = next(world for world in worlds() if world.phase(SOURCE) == "released")
    names = [type(effect) for _role, effect in pausing.effects]
    writes = [index for index, kind in enumerate(names) if kind is CompareAndSet]
    assert len(writes) == 1
    assert names.index(PauseMachine) < writes[0] < names.index(OpenGate)


def test_the_docs_say_who_writes_what() -> None:
    assert LANES.keys() == set(EVENT_TYPES.values())
    for world in worlds():
        for recorded, to in zip(world.log.recorded, world.log.addressed, strict=True):
            assert recorded.envelope.lane in LANES[type(recorded.event)]
            if to is not None:
                assert to.service in ADDRESSED[type(recorded.event)]


@pytest.mark.parametrize("role", Role, ids=lambda role: role.value)
def test_the_diagram_shows_every_move_and_the_table_every_cell(role: Role) -> None:
    diagram = state_diagram(TABLES[role], PHASES[role])
    lines = diagram.splitlines()
    assert lines[0] == "stateDiagram-v2"
    for before, kind, after in TABLES[role].transitions():
        if before is not after:
            arrow = next(line for line in lines if line.startswith(f"    {before} --> {after}: "))
            assert kind.__name__ in arrow.split(": ")[1].split(", ")
    phases = list(PHASES[role])
    assert not any(f" {phase} --> {phase}:" in diagram for phase in phases)
    rows = full_table(TABLES[role], phases).splitlines()
    assert all(row.count("|") == len(phases) + 2 for row in rows)
    assert len(rows) == 2 + len({kind for _phase, kind in TABLES[role].rows})


def test_the_generated_docs_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--docs", str(tmp_path)]) == 0
    assert main(["--check", "--docs", str(tmp_path)]) == 0
    stale = tmp_path / "generated" / "events.md"
    stale.write_text("old", encoding="utf-8")
    (tmp_path / "generated" / "errors.md").unlink()
    assert main(["--check", "--docs", str(tmp_path)]) == 1
    named = capsys.readouterr().err
    assert "events.md" in named
    assert "errors.md" in named
    assert "variables.md" not in named


def test_the_docs_of_this_checkout_are_fresh() -> None:
    assert main(["--check"]) == 0
