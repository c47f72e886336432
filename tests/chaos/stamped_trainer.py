"""A guest that is two: memhog stamps the RAM's pages, and a trainer trains in the framebuffer.

So one machine shows both that no page is lost or stale and that a computation goes on bit for
bit. The request ``TRAINED`` is the trainer's; all others are memhog's. Slow on purpose: what is
tested is where a migration breaks, not how fast it is.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from godwit.guests.memhog import Memhog
from godwit.guests.protocol import Machine
from godwit.guests.trainer import Trainer

STAMPED_TRAINER: Final = "stamped_trainer:StampedTrainer"
TRAINED: Final = {"op": "status", "digest": True}
"""Asks for the trainer's step, and the digest of its state there."""
_TRAINED: Final = json.dumps(TRAINED).encode()
NAP_S: Final = 0.01
SETTINGS: Final = {
    "GODWIT_MEMHOG_RATE": "500000",
    "GODWIT_TRAINER_HIDDEN": "16",
    "GODWIT_TRAINER_SEED": "7",
}


def make_trainer() -> Trainer:
    """The trainer, as it is in the guest."""
    os.environ.update(SETTINGS)
    return Trainer()


class StampedTrainer:
    """The guest. Its settings are ``SETTINGS``, wherever it runs."""

    def __init__(self) -> None:
        self._trainer = make_trainer()
        self._memhog = Memhog(nap=lambda _: time.sleep(NAP_S))

    @property
    def idle(self) -> bool:
        """Never: there is always something to train."""
        return False

    def boot(self, machine: Machine) -> None:
        """Boot both."""
        self._memhog.boot(machine)
        self._trainer.boot(machine)

    def step(self, requests: Sequence[bytes]) -> Sequence[bytes]:
        """One step of each."""
        trained = iter(self._trainer.step([each for each in requests if each == _TRAINED]))
        stamped = iter(self._memhog.step([each for each in requests if each != _TRAINED]))
        return [next(trained if each == _TRAINED else stamped) for each in requests]

    def save(self) -> bytes:
        """Both checkpoints."""
        return msgspec.msgpack.encode((self._memhog.save(), self._trainer.save()))

    def load(self, machine: Machine, checkpoint: bytes) -> None:
        """Load both."""
        memhog, trainer = msgspec.msgpack.decode(checkpoint, type=tuple[bytes, bytes])
        self._memhog.load(machine, memhog)
        self._trainer.load(machine, trainer)
