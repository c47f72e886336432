from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_process_machine import InProcessMachine, ask, moved

from godwit.guests.counter_random import random_floats
from godwit.guests.network import INPUTS, OUTPUTS, Adam, Network, parameter_count
from godwit.guests.trainer import LOSSES, Trainer
from godwit_protocol.errors import CorruptError, GuestError, InvalidInputError

HIDDEN = 16
RAM_BYTES = 64 * 1024


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GODWIT_TRAINER_HIDDEN", str(HIDDEN))


def booted(machine: InProcessMachine | None = None) -> tuple[Trainer, InProcessMachine]:
    machine = machine or InProcessMachine.of(RAM_BYTES)
    trainer = Trainer()
    trainer.boot(machine)
    return trainer, machine


def run_to(trainer: Trainer, step: int) -> dict[str, Any]:
    ask(trainer, "limit", steps=step)
    for _ in range(step):
        if trainer.idle:
            break
        trainer.step([])
    return ask(trainer, "status")


def test_a_run_moved_ten_times_equals_an_undisturbed_twin_bit_for_bit() -> None:
    twin, twins_machine = booted()
    trainer, here = booted()
    there = here.like()
    for move in range(1, 11):
        assert run_to(trainer, 13 * move) == run_to(twin, 13 * move)
        trainer = moved(trainer, here, there)
        here, there = there, here
    assert run_to(trainer, 150) == run_to(twin, 150)
    assert here.image() == twins_machine.image()


def test_the_loss_falls() -> None:
    trainer, _ = booted()
    run_to(trainer, 600)
    losses = ask(trainer, "losses", last=600)["losses"]
    assert len(losses) == 600
    assert np.mean(losses[-50:]) < 0.8 * np.mean(losses[:50])


def test_every_moment_and_nearly_every_parameter_changes_at_a_step() -> None:
    trainer, machine = booted()
    run_to(trainer, 20)
    arrays = np.frombuffer(machine.ram, np.float32, 3 * parameter_count(HIDDEN), 4096 + 4 * LOSSES)
    before = arrays.copy()
    run_to(trainer, 21)
    assert (arrays != before).mean() > 0.95


def test_the_seed_decides() -> None:
    first, again, other = booted()[0], booted()[0], booted_with_seed("2")
    digests = [run_to(trainer, 5)["digest"] for trainer in (first, again, other)]
    assert digests[0] == digests[1] != digests[2]


def booted_with_seed(seed: str) -> Trainer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GODWIT_TRAINER_SEED", seed)
        return booted()[0]


def test_it_is_idle_at_its_limit_and_goes_on_when_the_limit_is_lifted() -> None:
    trainer, _ = booted()
    assert not trainer.idle
    assert run_to(trainer, 7)["step"] == 7
    assert trainer.idle
    trainer.step([])
    assert ask(trainer, "status")["step"] == 7
    assert ask(trainer, "limit")["limit"] is None
    assert not trainer.idle
    assert ask(trainer, "status")["step"] == 8


def test_a_limit_can_come_with_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GODWIT_TRAINER_LIMIT", "3")
    trainer, _ = booted()
    for _ in range(5):
        trainer.step([])
    assert ask(trainer, "status")["step"] == 3


def test_the_loss_curve_is_a_ring() -> None:
    trainer, _ = booted()
    run_to(trainer, LOSSES + 10)
    losses = ask(trainer, "losses", last=LOSSES)["losses"]
    assert len(losses) == LOSSES
    assert losses[-1] == ask(trainer, "status", digest=False)["loss"]


def test_with_a_vgpu_it_trains_there_and_leaves_the_ram_alone() -> None:
    trainer, machine = booted(InProcessMachine.of(RAM_BYTES, RAM_BYTES))
    run_to(trainer, 3)
    assert not any(machine.ram)
    assert any(machine.vgpus[0].framebuffer)


def test_a_region_that_is_too_small_is_refused_with_what_it_needs() -> None:
    with pytest.raises(GuestError, match=r"needs \d{5}"):
        Trainer().boot(InProcessMachine.of(16384))


def test_a_stale_first_page_is_found_at_load() -> None:
    trainer, machine = booted()
    stale = machine.ram[:4096].tobytes()
    run_to(trainer, 2)
    checkpoint = trainer.save()
    machine.ram[:4096] = stale
    with pytest.raises(CorruptError, match="first page"):
        Trainer().load(machine, checkpoint)


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GODWIT_TRAINER_HIDDEN", "many")
    with pytest.raises(InvalidInputError, match="GODWIT_TRAINER_HIDDEN"):
        Trainer()


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_no_bytes_make_it_raise(requests: list[bytes]) -> None:
    trainer, _ = booted()
    replies = trainer.step(requests)
    assert len(replies) == len(requests)
    assert all(json.loads(reply) for reply in replies)


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (b"", "read"),
        (b"[" * 100_000, "read"),
        (b'{"op":"nothing"}', "nothing"),
        (b'{"op":"limit","steps":-1}', "steps"),
        (b'{"op":"losses","last":"all"}', "last"),
        (b'{"op":"status","of":"what"}', "of"),
    ],
)
def test_a_bad_request_is_answered_by_an_error(request_: bytes, word: str) -> None:
    (reply,) = booted()[0].step([request_])
    error = json.loads(reply)["error"]
    assert error["code"] == "invalid_input"
    assert word in error["message"]


def test_the_gradient_is_that_of_the_loss() -> None:
    """Central differences, in the network's own float32."""
    parameters = np.zeros(parameter_count(HIDDEN), np.float32)
    network = Network(parameters, HIDDEN)
    network.initialise(random_floats(1, 0, parameters.size))
    inputs = random_floats(2, 0, 8 * INPUTS).reshape(8, INPUTS)
    targets = random_floats(3, 0, 8 * OUTPUTS).reshape(8, OUTPUTS)
    network.loss(inputs, targets)
    gradient = network.gradient.copy()
    for index in np.argsort(-np.abs(gradient))[:20]:
        losses = []
        for change in (1e-2, -1e-2):
            old = parameters[index]
            parameters[index] += np.float32(change)
            losses.append(network.loss(inputs, targets))
            parameters[index] = old
        assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(gradient[index], rel=0.03)


def test_adam_is_the_published_algorithm() -> None:
    slopes = random_floats(1, 0, 5 * 1000).reshape(5, 1000)
    adam = Adam(*(np.zeros(1000, np.float32) for _ in range(3)))
    theta, first, second = (np.zeros(1000) for _ in range(3))
    for step, slope in enumerate(slopes, start=1):
        adam.update(slope, step)
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope.astype(np.float64) ** 2
        theta -= 1e-3 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    assert np.allclose(adam.parameters, theta, rtol=1e-3, atol=1e-6)
