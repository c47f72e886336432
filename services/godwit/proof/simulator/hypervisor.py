"""The hypervisor port over simulated machines: every call takes time, and may be the last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from godwit.hypervisor.port import Checkpoint, VmmState, VmmStatus
from godwit_protocol.compatibility.host_checks import NEEDED_FEATURES
from godwit_protocol.errors import ConflictError, GodwitError, RefusedError, UnreachableError
from godwit_protocol.machine import HypervisorKind, MachineSpec

from .clock import HostClock
from .faults import Fault
from .judge import Judge
from .link import Network
from .machine import SimulatedVmm
from .process import Process
from .transfer import CALL_S, ProcessIncoming, ProcessOutgoing

CREATE_S: Final = 0.02
FREE_BYTES: Final = 1 << 40
HALF: Final = 0.5
"""Of the VMMs that die at a command, so many do not obey it first."""

T = TypeVar("T")


class Host:
    """One simulated host's machines."""

    def __init__(self, name: str, clock: HostClock, judge: Judge, bandwidth: float) -> None:
        self.name = name
        self.clock = clock
        self.judge = judge
        self.bandwidth = bandwidth
        """Bytes a second of its link."""
        self.vmms: dict[str, SimulatedVmm] = {}
        self.known: set[str] = set()
        """Machines whose VMMs, dead or alive, have files here."""

    def add(self, vmm: SimulatedVmm) -> None:
        """A VMM was created."""
        self.vmms[vmm.spec.name] = vmm
        self.known.add(vmm.spec.name)
        self.judge.created(vmm)

    def end(self, vmm: SimulatedVmm) -> None:
        """A VMM was ended by its host's services."""
        if self._take_out(vmm):
            self.known.discard(vmm.spec.name)
            self.judge.ended(vmm)

    def kill(self, vmm: SimulatedVmm, how: str) -> None:
        """A VMM died, and nobody wanted it to."""
        if self._take_out(vmm):
            self.judge.died(vmm, how)

    def lose_power(self) -> None:
        """Every VMM is gone."""
        for vmm in tuple(self.vmms.values()):
            self.kill(vmm, "lost with its host")

    def _take_out(self, vmm: SimulatedVmm) -> bool:
        if not vmm.alive:
            return False
        vmm.alive = False
        del self.vmms[vmm.spec.name]
        return True


class ProcessHypervisor:
    """``hypervisor.port.Hypervisor`` of one process."""

    def __init__(self, host: Host, process: Process, network: Network) -> None:
        self._host = host
        self._process = process
        self._network = network

    @property
    def version(self) -> str:
        """As ``Hypervisor.version``."""
        return "1.0"

    def missing(self) -> Sequence[str]:
        """As ``Hypervisor.missing``."""
        return ()

    def features(self) -> Sequence[str]:
        """As ``Hypervisor.features``."""
        return NEEDED_FEATURES[HypervisorKind.NATIVE]

    def free_memory_bytes(self) -> int:
        """As ``Hypervisor.free_memory_bytes``: a machine that finds none is a fault of its own."""
        return FREE_BYTES

    async def create(self, spec: MachineSpec) -> ProcessVmm:
        """As ``Hypervisor.create``."""
        host, process = self._host, self._process
        process.step("create a VMM")
        await asyncio.sleep(process.world.latency_s(CALL_S))
        if spec.name in host.vmms:
            raise ConflictError(f"machine {spec.name} exists on {host.name}")
        if process.world.weather.strikes(Fault.MEMORY_REFUSED):
            raise RefusedError(f"host {host.name} lacks memory for machine {spec.name}")
        vmm = SimulatedVmm(process.world, host.name, spec, pid=process.world.loop.next_number())
        host.add(vmm)
        process.step("VMM created")
        await asyncio.sleep(process.world.latency_s(CREATE_S))
        return ProcessVmm(host, process, self._network, vmm)

    async def find(self, name: str) -> ProcessVmm | None:
        """As ``Hypervisor.find``."""
        self._process.step("find a VMM")
        vmm = self._host.vmms.get(name)
        return None if vmm is None else self._handle(vmm)

    async def find_all(self) -> Sequence[ProcessVmm]:
        """As ``Hypervisor.find_all``."""
        self._process.check()
        return [self._handle(vmm) for _, vmm in sorted(self._host.vmms.items())]

    async def find_dead(self) -> Sequence[str]:
        """As ``Hypervisor.find_dead``."""
        self._process.check()
        return sorted(self._host.known - self._host.vmms.keys())

    async def forget(self, name: str) -> None:
        """As ``Hypervisor.forget``."""
        self._process.step("forget a dead VMM")
        if name not in self._host.vmms:
            self._host.known.discard(name)

    def _handle(self, vmm: SimulatedVmm) -> ProcessVmm:
        return ProcessVmm(self._host, self._process, self._network, vmm)


class ProcessVmm:
    """``hypervisor.port.Vmm`` as one process holds it."""

    def __init__(self, host: Host, process: Process, network: Network, vmm: SimulatedVmm) -> None:
        self._host = host
        self._process = process
        self._network = network
        self._vmm = vmm

    @property
    def name(self) -> str:
        """As ``Vmm.name``."""
        return self._vmm.spec.name

    async def status(self) -> VmmStatus:
        """As ``Vmm.status``."""
        vmm = self._vmm
        return await self._command(
            "status",
            tuple(VmmState),
            lambda: VmmStatus(vmm.spec, vmm.state, vmm.epoch, vmm.pid, vmm.steps, ""),
        )

    async def start(self, epoch: int) -> int:
        """As ``Vmm.start``."""
        return await self._command("start", (VmmState.GATED,), lambda: self._run(epoch))

    async def pause(self) -> Checkpoint:
        """As ``Vmm.pause``."""
        states = (VmmState.RUNNING, VmmState.PAUSED)
        return await self._command("pause", states, self._pause)

    async def resume(self, epoch: int) -> int:
        """As ``Vmm.resume``."""
        return await self._command("resume", (VmmState.PAUSED,), lambda: self._run(epoch))

    async def halt(self, *, halted: bool) -> None:
        """As ``Vmm.halt``: no simulated operator asks for it."""
        raise ConflictError(f"machine {self.name} cannot be halted here: {halted}")

    async def load(self, checkpoint: bytes) -> None:
        """As ``Vmm.load``."""

        def load() -> None:
            self._vmm.steps = int(checkpoint)
            self._vmm.state = VmmState.LOADED

        await self._command("load", (VmmState.GATED,), load)

    async def open_gate(self, epoch: int) -> int:
        """As ``Vmm.open_gate``."""
        return await self._command("open the gate", (VmmState.LOADED,), lambda: self._run(epoch))

    async def stop(self) -> None:
        """As ``Vmm.stop``."""
        self._process.step(f"stop the VMM of {self.name}")
        await asyncio.sleep(self._process.world.latency_s(CALL_S) + self._process.lag_s())
        self._host.end(self._vmm)
        self._process.step(f"VMM of {self.name} stopped")

    async def outgoing(self) -> ProcessOutgoing:
        """As ``Vmm.outgoing``."""
        if not self._vmm.alive:
            raise UnreachableError(f"the VMM of {self.name} is dead")
        return ProcessOutgoing(self._host, self._process, self._network, self._vmm)

    async def incoming(self) -> ProcessIncoming:
        """As ``Vmm.incoming``."""
        if not self._vmm.alive:
            raise UnreachableError(f"the VMM of {self.name} is dead")
        return ProcessIncoming(self._process, self._vmm)

    async def _command(self, name: str, allowed: Sequence[VmmState], act: Callable[[], T]) -> T:
        vmm, process = self._vmm, self._process
        process.step(f"{name} {self.name}")
        loop = process.world.loop
        sent = loop.create_future()
        arrives_s = loop.time() + process.world.latency_s(CALL_S) + process.lag_s()
        vmm.busy_until_s = max(arrives_s, vmm.busy_until_s)
        loop.at(vmm.busy_until_s, self._obey, sent, name, allowed, act)
        result: T = await sent
        process.step(f"{name} {vmm.spec.name}: done")
        return result

    def _obey(
        self, sent: asyncio.Future[T], name: str, allowed: Sequence[VmmState], act: Callable[[], T]
    ) -> None:
        """In the VMM: it obeys also if who asked has died meanwhile."""
        try:
            result = self._act(name, allowed, act)
        except GodwitError as error:
            if not sent.done():
                sent.set_exception(error)
        else:
            if not sent.done():
                sent.set_result(result)

    def _act(self, name: str, allowed: Sequence[VmmState], act: Callable[[], T]) -> T:
        vmm, host = self._vmm, self._host
        dies = vmm.alive and vmm.world.weather.strikes(Fault.VMM_DIES_AT_STEP)
        if dies and vmm.world.dice.random() < HALF:
            host.kill(vmm, f"killed before: {name}")
        if not vmm.alive:
            raise UnreachableError(f"the VMM of {self.name} is dead")
        if vmm.state not in allowed:
            raise ConflictError(f"machine {self.name} is {vmm.state}: no {name} now")
        result = act()
        if dies:
            host.kill(vmm, f"killed after: {name}")
            raise UnreachableError(f"the VMM of {self.name} is dead")
        return result

    def _run(self, epoch: int) -> int:
        vmm = self._vmm
        if epoch < vmm.epoch:
            raise ConflictError(f"machine {self.name} has run in epoch {vmm.epoch}")
        self._host.judge.runs(vmm, epoch)
        vmm.run(epoch)
        return self._host.clock.monotonic_ns()

    def _pause(self) -> Checkpoint:
        vmm = self._vmm
        if vmm.state is VmmState.RUNNING:
            vmm.pause()
            self._host.judge.paused(vmm)
        ago_ns = int((vmm.world.loop.time() - vmm.stopped_s) * 1e9)
        return Checkpoint(vmm.checkpoint, self._host.clock.monotonic_ns() - ago_ns)
