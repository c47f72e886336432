"""The twin finds a trainer that was disturbed, and no other."""

from __future__ import annotations

import json
from typing import Any

import pytest
from stamped_trainer import TRAINED, StampedTrainer
from twin import InProcessMachine, Twin


def status(guest: StampedTrainer) -> dict[str, Any]:
    """Asked in one step with a question to the other half of the guest."""
    told, other = guest.step([json.dumps(TRAINED).encode(), b'{"op": "status"}'])
    assert "pages" in json.loads(other)
    found = json.loads(told)
    assert isinstance(found, dict)
    return found


@pytest.fixture
def machine() -> InProcessMachine:
    return InProcessMachine.empty()


@pytest.fixture
def guest(machine: InProcessMachine) -> StampedTrainer:
    booted = StampedTrainer()
    booted.boot(machine)
    for _ in range(5):
        booted.step([])
    return booted


def test_a_trainer_that_moved_equals_its_twin(
    machine: InProcessMachine, guest: StampedTrainer
) -> None:
    twin = Twin()
    assert twin.faults(status(guest)) == []
    moved = StampedTrainer()
    moved.load(machine, guest.save())
    for _ in range(5):
        moved.step([])
    assert twin.faults(status(moved)) == []


def test_one_bit_that_is_wrong_is_found(machine: InProcessMachine, guest: StampedTrainer) -> None:
    machine.vgpus[0].framebuffer[10_000] ^= 1
    assert "its twin" in Twin().faults(status(guest))[0]


def test_a_trainer_that_went_back_is_found(guest: StampedTrainer) -> None:
    twin = Twin()
    before = status(guest)
    twin.faults(status(guest))
    assert "after" in twin.faults(before)[0]
