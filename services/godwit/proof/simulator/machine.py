"""Simulated machines: VMMs with a memory of version counters, and a guest that never rests.

The guest's step number ``s`` writes ``s`` into one page, so that what the memory must hold after
any number of steps is known, and computed only when somebody looks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from godwit.hypervisor.port import VmmState
from godwit_protocol.machine import PAGE_BYTES, MachineSpec

from .process import Process, World

STRIDE: Final = 7
"""Coprime to every memory's number of pages: a guest writes them all in turn."""
VGPU_PAGES: Final = 2
"""Pages of a framebuffer that hold something."""


@dataclass(eq=False)
class SimulatedVmm:
    """One VMM. It outlives the services of its host."""

    world: World
    host: str
    spec: MachineSpec
    pid: int
    state: VmmState = VmmState.GATED
    epoch: int = 0
    alive: bool = True
    steps: int = 0
    memory: list[int] = field(default_factory=list)
    dirty: set[int] = field(default_factory=set)
    checkpoint: bytes = b""
    stopped_s: float = 0.0
    step_s: float = 0.001
    busy_until_s: float = 0.0
    """Commands are obeyed in the order in which they were given."""
    _ran_until_s: float = 0.0
    _slow_percent: int = 0
    _slower: Process | None = None

    def __post_init__(self) -> None:
        self.memory = [0] * page_count(self.spec)
        self.step_s = float(self.spec.env.get("STEP_S", "0.001"))

    def run(self, epoch: int) -> None:
        """Let the guest run from now on."""
        self.state, self.epoch = VmmState.RUNNING, epoch
        self._ran_until_s = self.world.loop.time()

    def slow(self, percent: int, slower: Process) -> None:
        """Take so much of the guest's time from it, as long as the process that asks lives."""
        self.advance()
        self._slow_percent, self._slower = percent, slower

    def advance(self) -> None:
        """Do the steps that the guest has done until now."""
        if self.state is not VmmState.RUNNING:
            return
        slowed = self._slower is not None and self._slower.alive
        step_s = self.step_s / (1 - self._slow_percent / 100) if slowed else self.step_s
        done = int((self.world.loop.time() - self._ran_until_s) / step_s)
        self._ran_until_s += done * step_s
        pages = len(self.memory)
        for step in range(self.steps + max(done - pages, 0) + 1, self.steps + done + 1):
            page = step * STRIDE % pages
            self.memory[page] = step
            self.dirty.add(page)
        self.steps += done

    def pause(self) -> None:
        """Stop between two steps."""
        self.advance()
        self.state = VmmState.PAUSED
        self.checkpoint = str(self.steps).encode()
        self.stopped_s = self.world.loop.time()

    def image(self) -> tuple[int, tuple[int, ...]]:
        """All that the machine is: its steps and its memory."""
        return self.steps, tuple(self.memory)


def page_count(spec: MachineSpec) -> int:
    """Pages that are simulated of a machine."""
    return spec.ram_bytes // PAGE_BYTES + VGPU_PAGES * len(spec.vgpus)


def region_pages(spec: MachineSpec) -> tuple[int, ...]:
    """By region: how many of its pages are simulated."""
    return (spec.ram_bytes // PAGE_BYTES, *(VGPU_PAGES for _ in spec.vgpus))
