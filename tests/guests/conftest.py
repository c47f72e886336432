from __future__ import annotations

from collections.abc import Iterator

import pytest
from in_process_machine import CAPACITY, Booted, InProcessMachine

from godwit.guests.embedder import Embedder
from godwit.guests.minilm import WEIGHTS_BYTES


@pytest.fixture(scope="session")
def weights() -> Iterator[Booted]:
    """The 90 MB are read once a session."""
    machine = InProcessMachine.of(4096, WEIGHTS_BYTES + (1 << 20))
    guest = Embedder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GODWIT_EMBEDDER_CAPACITY", str(CAPACITY))
        guest.boot(machine)
    yield Booted(machine, guest.save())


@pytest.fixture(scope="session")
def spares(weights: Booted) -> tuple[InProcessMachine, InProcessMachine]:
    """Two machines of the same size on other hosts."""
    return weights.machine.like(), weights.machine.like()


@pytest.fixture
def machine(weights: Booted) -> InProcessMachine:
    """The machine, its index empty again."""
    framebuffer = weights.machine.vgpus[0].framebuffer
    framebuffer[: len(weights.checkpoint)] = weights.checkpoint
    return weights.machine


@pytest.fixture
def embedder(weights: Booted, machine: InProcessMachine) -> Embedder:
    guest = Embedder()
    guest.load(machine, weights.checkpoint)
    return guest
