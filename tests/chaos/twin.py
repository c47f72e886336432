"""The undisturbed twin of a machine's trainer: the same seed, trained here, step by step."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from stamped_trainer import TRAINED, make_trainer

REGION_BYTES: Final = 1 << 20
STEPS_MAX: Final = 1_000_000
"""More than any machine of the matrix trains: a step beyond it is not a trainer's."""


@dataclass(frozen=True, slots=True)
class InProcessVGpu:
    profile: str
    framebuffer: memoryview


@dataclass(frozen=True, slots=True)
class InProcessMachine:
    name: str
    ram: memoryview
    vgpus: tuple[InProcessVGpu, ...]

    @classmethod
    def empty(cls) -> InProcessMachine:
        """One whose regions are zero."""
        ram, framebuffer = (memoryview(mmap.mmap(-1, REGION_BYTES)) for _ in range(2))
        return cls("twin", ram, (InProcessVGpu("twin", framebuffer),))


class Twin:
    """Only goes forward, as the machine does."""

    def __init__(self) -> None:
        self._trainer = make_trainer()
        self._trainer.boot(InProcessMachine.empty())
        self._step = 0

    def faults(self, told: dict[str, Any]) -> list[str]:
        """What is wrong with a trainer that has ``told`` its status. Trains up to that step."""
        step = told["step"]
        if not self._step <= step <= STEPS_MAX:
            return [f"the trainer is at step {step} after {self._step}"]
        for _ in range(self._step, step):
            self._trainer.step([])
        self._step = step
        ours = self._status()
        return [] if ours == told else [f"the trainer is {told}, its twin {ours}"]

    def _status(self) -> dict[str, Any]:
        """Being asked is a step too."""
        (reply,) = self._trainer.step([msgspec.json.encode(TRAINED)])
        self._step += 1
        status: dict[str, Any] = msgspec.json.decode(reply)
        return status
