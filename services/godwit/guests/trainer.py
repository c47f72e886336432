"""``trainer``: trains a small network with Adam for ever, deterministically from its seed.

All of its state lies in one region (the first vGPU's framebuffer, or RAM in a machine without one):
a header page with the seed and the step, the loss curve, the parameters, both moments. A batch is a
function of seed and step, so a moved run equals an undisturbed one bit for bit at the same step.
Requests: ``status``, ``losses``, ``limit``; docs/guests.md has them. Knows nothing of migration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated, Any, Final

import msgspec
import numpy as np

from godwit_protocol.errors import GuestError

from .counter_random import random_floats
from .header import HEADER_BYTES, Header
from .network import INPUTS, OUTPUTS, Adam, Floats, Network, parameter_count
from .protocol import Machine
from .requests import Request, answered
from .settings import whole_number

LOSSES: Final = 1024
"""Steps that the loss curve goes back."""

_MAGIC: Final = b"GWTRAIN1"
_BATCH: Final = 32
_NO_LIMIT: Final = 2**62
_HIDDEN_MAX: Final = 4096
_ARRAYS_OFFSET: Final = HEADER_BYTES + 4 * LOSSES

# Keys of the independent sequences that are drawn from one seed.
_INITIAL_KEY: Final = 0x1000_0000_0000_0000
_TEACHER_KEY: Final = 0x2000_0000_0000_0000
_BATCH_KEY: Final = 0x3000_0000_0000_0000


class Word(IntEnum):
    """The trainer's words in its header."""

    SEED = 1
    STEP = 2
    LIMIT = 3
    HIDDEN = 4


class Status(Request, frozen=True, tag="status"):
    """Asks for step, limit, loss and, unless ``digest`` is false, the digest of the state."""

    digest: bool = True


class Losses(Request, frozen=True, tag="losses"):
    """Asks for the newest ``last`` losses, the oldest of them first."""

    last: Annotated[int, msgspec.Meta(ge=1, le=LOSSES)] = 32


class Limit(Request, frozen=True, tag="limit"):
    """Stops the training at step ``steps``; without it, training goes on for ever."""

    steps: Annotated[int, msgspec.Meta(ge=0, le=_NO_LIMIT)] = _NO_LIMIT


class Trainer:
    """The guest. Settings: GODWIT_TRAINER_{SEED,HIDDEN,LIMIT}."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(Status | Losses | Limit)
        self._seed = whole_number("GODWIT_TRAINER_SEED", 1)
        self._hidden = whole_number("GODWIT_TRAINER_HIDDEN", 256, minimum=1, maximum=_HIDDEN_MAX)
        self._limit = whole_number("GODWIT_TRAINER_LIMIT", _NO_LIMIT, maximum=_NO_LIMIT)
        self.idle = True

    def boot(self, machine: Machine) -> None:
        """Draw the first parameters. Raises ``GuestError`` if the region is too small."""
        memory = _region(machine)
        header = Header(memory, _MAGIC)
        header[Word.SEED], header[Word.LIMIT] = self._seed, self._limit
        header[Word.HIDDEN] = self._hidden
        self._build(memory, header)
        noise = random_floats(self._seed + _INITIAL_KEY, 0, parameter_count(self._hidden))
        self._network.initialise(noise)
        header.begin()

    def step(self, requests: Sequence[bytes]) -> Sequence[bytes]:
        """Answer the requests; then train one step, unless the limit is reached."""
        replies = [answered(self._decoder, self._answer, request) for request in requests]
        if not self._at_limit():
            self._train()
        self.idle = self._at_limit()
        return replies

    def save(self) -> bytes:
        """Return the header: everything is in the region."""
        return self._header.checkpoint()

    def load(self, machine: Machine, checkpoint: bytes) -> None:
        """Build the views. Raises ``CorruptError`` if the region is not the checkpoint's."""
        memory = _region(machine)
        header = Header(memory, _MAGIC)
        header.verify(checkpoint)
        self._build(memory, header)

    def _build(self, memory: memoryview, header: Header) -> None:
        hidden = header[Word.HIDDEN]
        count = parameter_count(hidden)
        end = _ARRAYS_OFFSET + 3 * 4 * count
        if end > len(memory):
            raise GuestError(
                f"the region has {len(memory)} bytes; a trainer with {hidden} hidden units"
                f" needs {end}",
                hint="give the machine more memory, or a smaller GODWIT_TRAINER_HIDDEN",
            )
        self._header = header
        self._used = memory[:end]
        self._losses = np.frombuffer(memory, np.float32, LOSSES, HEADER_BYTES)
        arrays = np.frombuffer(memory, np.float32, 3 * count, _ARRAYS_OFFSET).reshape(3, count)
        self._adam = Adam(arrays[0], arrays[1], arrays[2])
        self._network = Network(arrays[0], hidden)
        teacher = random_floats(header[Word.SEED] + _TEACHER_KEY, 0, INPUTS * OUTPUTS)
        self._teacher = teacher.reshape(INPUTS, OUTPUTS) * np.float32(0.5)
        self.idle = self._at_limit()

    def _at_limit(self) -> bool:
        return self._header[Word.STEP] >= self._header[Word.LIMIT]

    def _train(self) -> None:
        step = self._header[Word.STEP]
        inputs = self._inputs(step)
        loss = self._network.loss(inputs, np.sin(inputs @ self._teacher))
        self._adam.update(self._network.gradient, step + 1)
        self._losses[step % LOSSES] = loss
        self._header[Word.STEP] = step + 1

    def _inputs(self, step: int) -> Floats:
        key, size = self._header[Word.SEED] + _BATCH_KEY, _BATCH * INPUTS
        return random_floats(key, step * size, size).reshape(_BATCH, INPUTS)

    def _answer(self, request: Status | Losses | Limit) -> dict[str, Any]:
        match request:
            case Status(digest):
                return self._status() | ({"digest": self._digest()} if digest else {})
            case Losses(last):
                return {"step": self._header[Word.STEP], "losses": self._newest(last)}
            case Limit(steps):
                self._header[Word.LIMIT] = steps
                return self._status()

    def _status(self) -> dict[str, Any]:
        limit, newest = self._header[Word.LIMIT], self._newest(1)
        return {
            "step": self._header[Word.STEP],
            "limit": limit if limit < _NO_LIMIT else None,
            "loss": newest[0] if newest else None,
        }

    def _newest(self, last: int) -> list[float]:
        step = self._header[Word.STEP]
        steps = np.arange(max(0, step - last), step) % LOSSES
        return [float(loss) for loss in self._losses[steps]]

    def _digest(self) -> str:
        """BLAKE2b of the loss curve, the parameters, the moments, the seed and the step."""
        digest = hashlib.blake2b(self._used[HEADER_BYTES:], digest_size=16)
        digest.update(b"%d %d" % (self._header[Word.SEED], self._header[Word.STEP]))
        return digest.hexdigest()


def _region(machine: Machine) -> memoryview:
    return machine.vgpus[0].framebuffer if machine.vgpus else machine.ram
