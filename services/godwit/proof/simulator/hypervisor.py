"""The hypervisor port over simulated machines: every call takes time, and may be the last."""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from godwit.hypervisor.port import Checkpoint, LinkTarget, SentPages, VmmState, VmmStatus
from godwit_protocol.bulk import FIRST_ROUND, BulkLink, RoundTotals
from godwit_protocol.compatibility.host_checks import NEEDED_FEATURES
from godwit_protocol.errors import (
    AbortedError,
    ConflictError,
    GodwitError,
    RefusedError,
    UnreachableError,
)
from godwit_protocol.framing import Preamble
from godwit_protocol.machine import PAGE_BYTES, HypervisorKind, MachineSpec

from .clock import HostClock
from .faults import Fault
from .judge import Judge
from .link import Network
from .machine import SimulatedVmm, page_count, region_pages
from .process import Process

CALL_S: Final = 0.0003
CREATE_S: Final = 0.02
FREE_BYTES: Final = 1 << 40
EXTENT: Final = struct.Struct("<qq")

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

    def add(self, vmm: SimulatedVmm) -> None:
        """A VMM was created."""
        self.vmms[vmm.spec.name] = vmm
        self.judge.created(vmm)

    def end(self, vmm: SimulatedVmm) -> None:
        """A VMM was ended."""
        if vmm.alive:
            vmm.alive = False
            del self.vmms[vmm.spec.name]
            self.judge.ended(vmm)


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

    async def forget(self, name: str) -> None:
        """As ``Hypervisor.forget``: a simulated VMM leaves no files."""
        self._process.check()

    async def find_dead(self) -> Sequence[str]:
        """As ``Hypervisor.find_dead``: a simulated VMM dies with its host, and leaves no proof."""
        return ()

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
        sent = process.world.loop.create_future()
        process.world.loop.after(
            process.world.latency_s(CALL_S) + process.lag_s(), self._obey, sent, name, allowed, act
        )
        result: T = await sent
        process.step(f"{name} {vmm.spec.name}: done")
        return result

    def _obey(
        self, sent: asyncio.Future[T], name: str, allowed: Sequence[VmmState], act: Callable[[], T]
    ) -> None:
        """In the VMM: it obeys also if who asked has died meanwhile."""
        vmm = self._vmm
        try:
            if not vmm.alive:
                raise UnreachableError(f"the VMM of {self.name} is dead")
            if vmm.state not in allowed:
                raise ConflictError(f"machine {self.name} is {vmm.state}: no {name} now")
            result = act()
        except GodwitError as error:
            if not sent.done():
                sent.set_exception(error)
        else:
            if not sent.done():
                sent.set_result(result)

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


class ProcessOutgoing:
    """``hypervisor.port.Outgoing``."""

    def __init__(self, host: Host, process: Process, network: Network, vmm: SimulatedVmm) -> None:
        self._host = host
        self._process = process
        self._network = network
        self._vmm = vmm
        self._target: BulkEnd | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._aborted = False
        self._armed = False

    async def held(self) -> tuple[bytes, ...]:
        """As ``Outgoing.held``."""
        return tuple(EXTENT.pack(0, count) for count in region_pages(self._vmm.spec))

    async def connect(self, target: LinkTarget) -> None:
        """As ``Outgoing.connect``."""
        listener = await self._network.reach(self._process, target.address, target.port)
        bulk = BulkEnd(self._network, self._process, listener.process, self._lost)
        if not listener.take_bulk(target.session, target.token, bulk):
            raise UnreachableError("the destination closed the bulk connection")
        self._target = bulk

    async def send_round(self, round_number: int) -> SentPages:
        """As ``Outgoing.send_round``."""
        vmm, target = self._vmm, self._target
        self._process.step(f"send round {round_number} of {vmm.spec.name}")
        if target is None:
            raise UnreachableError("a round was to be sent before the link was open")
        self._check()
        vmm.advance()
        pages = sorted(vmm.dirty) if self._armed else range(len(vmm.memory))
        values = {page: vmm.memory[page] for page in pages}
        vmm.dirty.clear()
        self._armed = True
        sent_bytes = PAGE_BYTES * len(values)
        await self._pass(sent_bytes / self._host.bandwidth, values)
        target.send(round_number, values)
        return SentPages(
            pages=len(values),
            sent_bytes=sent_bytes,
            wire_bytes=sent_bytes,
            scan_ns=10_000,
            bytes_by_region={"ram": sent_bytes},
        )

    async def dirty_bytes(self) -> int:
        """As ``Outgoing.dirty_bytes``."""
        self._process.check()
        self._vmm.advance()
        return PAGE_BYTES * len(self._vmm.dirty)

    async def digests(self) -> dict[str, bytes]:
        """As ``Outgoing.digests``."""
        await asyncio.sleep(self._process.world.latency_s(CALL_S))
        return _digests(self._vmm)

    def round_progress(self) -> tuple[int, int]:
        """As ``Outgoing.round_progress``."""
        return 0, 0

    def abort(self) -> None:
        """As ``Outgoing.abort``."""
        self._aborted = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(AbortedError("this side broke off"))

    async def close(self) -> None:
        """As ``Outgoing.close``."""
        self.abort()
        if self._target is not None:
            self._target.close()

    def _lost(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(UnreachableError("a bulk connection broke"))

    def _check(self) -> None:
        if self._aborted:
            raise AbortedError("this side broke off")
        if self._target is None or self._target.broken:
            raise UnreachableError("a bulk connection broke")

    async def _pass(self, seconds: float, values: dict[int, int]) -> None:
        """Let time pass while pages are on their way; some have arrived if it is cut short."""
        loop = self._process.world.loop
        waiting = self._waiting = loop.create_future()
        loop.after(seconds + self._process.world.latency_s(CALL_S), _finish, waiting)
        try:
            await waiting
        except (AbortedError, UnreachableError):
            if self._target is not None:
                dice = self._process.world.dice
                some = {page: values[page] for page in values if dice.random() < 0.5}
                self._target.send(None, some)
            raise
        finally:
            self._waiting = None
        self._check()


class BulkEnd:
    """The bulk connections of one migration, from the source's end."""

    def __init__(
        self,
        network: Network,
        source: Process,
        destination: Process,
        lost: Callable[[], None],
    ) -> None:
        self.broken = False
        self.session: ProcessSession | None = None
        self._network = network
        self._source = source
        self._destination = destination
        self._lost = lost
        self._arrives_s = 0.0
        source.on_death.append(self.close)
        destination.on_death.append(self.close)

    def send(self, round_number: int | None, values: dict[int, int]) -> None:
        """Send pages; they arrive later. ``round_number``: the round ends with them."""
        self._later(self._arrive, round_number, values)

    def close(self) -> None:
        """End it; the other side sees it later."""
        if not self.broken:
            self.broken = True
            if self._source.alive:
                self._lost()
            self._later(self._end)

    def _later(self, act: Callable[..., None], *args: Any) -> None:
        world = self._source.world
        ready_s = self._network.open_s(self._source.host, self._destination.host)
        self._arrives_s = max(ready_s + world.latency_s(CALL_S), self._arrives_s)
        world.loop.after(self._arrives_s - world.loop.time(), act, *args)

    def _arrive(self, round_number: int | None, values: dict[int, int]) -> None:
        if self.session is not None and self._destination.alive:
            self.session.take(round_number, values)

    def _end(self) -> None:
        if self.session is not None:
            self.session.fail(UnreachableError("the peer closed the connection"))


class ProcessSession:
    """``transfer.port.BulkSession``."""

    def __init__(self, link: BulkLink, process: Process, vmm: SimulatedVmm) -> None:
        self._link = link
        self._process = process
        self._vmm = vmm
        self._totals: dict[int, RoundTotals] = {}
        self._failure: UnreachableError | AbortedError | None = None
        self._news = asyncio.Event()
        self._bulk: BulkEnd | None = None

    @property
    def link(self) -> BulkLink:
        """As ``BulkSession.link``."""
        return self._link

    def admit(self, _preamble: Preamble, sock: object) -> None:
        """As ``BulkSession.admit``."""
        assert isinstance(sock, BulkEnd)
        self._bulk = sock
        sock.session = self

    async def round_applied(self, round_number: int) -> RoundTotals:
        """As ``BulkSession.round_applied``."""
        while round_number not in self._totals:
            if self._failure is not None:
                raise self._failure
            self._news.clear()
            await self._news.wait()
        return self._totals[round_number]

    def take(self, round_number: int | None, values: dict[int, int]) -> None:
        """Pages have come."""
        if self._failure is not None or not self._vmm.alive:
            return
        for page, value in values.items():
            self._vmm.memory[page] = value
        if round_number is not None:
            number = len(self._totals) + FIRST_ROUND
            assert number == round_number, "the rounds of a connection come in order"
            self._totals[number] = RoundTotals(len(values), PAGE_BYTES * len(values), 1)
            self._news.set()

    def fail(self, error: UnreachableError | AbortedError) -> None:
        """Nothing comes any more."""
        if self._failure is None:
            self._failure = error
            self._news.set()
            if self._bulk is not None:
                self._bulk.close()


class ProcessIncoming:
    """``hypervisor.port.Incoming``."""

    def __init__(self, process: Process, vmm: SimulatedVmm) -> None:
        self._process = process
        self._vmm = vmm
        self._session: ProcessSession | None = None

    def receive(self, session: bytes, connections: int) -> ProcessSession:
        """As ``Incoming.receive``."""
        link = BulkLink(session, connections, (page_count(self._vmm.spec),))
        self._session = ProcessSession(link, self._process, self._vmm)
        return self._session

    async def populate(self, extents: tuple[bytes, ...]) -> None:
        """As ``Incoming.populate``."""
        self._process.step("populate memory")
        await asyncio.sleep(self._process.world.latency_s(CREATE_S))
        if not self._vmm.alive:
            raise UnreachableError("the VMM is dead")
        if self._process.world.weather.strikes(Fault.MEMORY_REFUSED):
            raise RefusedError(f"no memory for {len(extents)} regions")

    async def close(self) -> None:
        """As ``Incoming.close``."""
        self._process.check()
        if self._session is not None:
            self._session.fail(AbortedError("this side closed the link"))
            self._session = None

    async def digests(self) -> dict[str, bytes]:
        """As ``Incoming.digests``."""
        await asyncio.sleep(self._process.world.latency_s(CALL_S))
        return _digests(self._vmm)


def _digests(vmm: SimulatedVmm) -> dict[str, bytes]:
    return {"all": hashlib.sha256(str(vmm.memory).encode()).digest()}


def _finish(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
