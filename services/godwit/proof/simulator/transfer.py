"""The data plane over simulated machines: pages that travel, and arrive in part or late.

A host's pages go over several bulk connections, each in order, none in step with another; a page
always takes the same one. It must not know what a page means.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from godwit.hypervisor.port import DirtyPages, LinkTarget, SentPages, VmmLostError
from godwit.transfer.connection import STALL_S
from godwit.transfer.pacing import Pace
from godwit.transfer.port import Content
from godwit_protocol.bulk import FIRST_ROUND, BulkLink, RoundTotals
from godwit_protocol.compression import Compression
from godwit_protocol.errors import AbortedError, RefusedError, UnreachableError
from godwit_protocol.framing import Preamble
from godwit_protocol.machine import PAGE_BYTES

from .faults import Fault
from .link import Network
from .machine import SimulatedVmm, page_count, region_pages
from .process import Process

if TYPE_CHECKING:
    from .hypervisor import Host

CALL_S: Final = 0.0003
POPULATE_S: Final = 0.02
LATE_S_MAX: Final = 2.0
EXTENT: Final = struct.Struct("<qq")


class ProcessOutgoing:
    """``hypervisor.port.Outgoing``."""

    def __init__(self, host: Host, process: Process, network: Network, vmm: SimulatedVmm) -> None:
        self._host = host
        self._process = process
        self._network = network
        self._vmm = vmm
        self._target: BulkEnd | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._pace: Pace | None = None
        self._aborted = False
        self._armed = False

    async def held(self) -> tuple[bytes, ...]:
        """As ``Outgoing.held``."""
        return tuple(EXTENT.pack(0, count) for count in region_pages(self._vmm.spec))

    async def connect(self, target: LinkTarget) -> None:
        """As ``Outgoing.connect``."""
        listener = await self._network.reach(self._process, target.address, target.port)
        bulk = BulkEnd(
            self._network, self._process, listener.process, target.connections, self._lost
        )
        if not listener.take_bulk(target.session, target.token, bulk):
            raise UnreachableError("the destination closed the bulk connection")
        self._network.opened(bulk)
        self._target, self._pace = bulk, target.pace

    async def slow(self, percent: int) -> None:
        """As ``Outgoing.slow``."""
        self._process.check()
        self._check_vmm()
        self._vmm.slow(percent, self._process)

    async def send_round(
        self, round_number: int, *, wait_bytes_max: int = 0, in_stun: bool = False
    ) -> SentPages:
        """As ``Outgoing.send_round``."""
        vmm, target = self._vmm, self._target
        self._process.step(f"send round {round_number} of {vmm.spec.name}")
        if target is None:
            raise UnreachableError("a round was to be sent before the link was open")
        self._check()
        self._check_vmm()
        vmm.advance()
        pages = sorted(vmm.dirty) if self._armed else range(len(vmm.memory))
        values = {page: vmm.memory[page] for page in pages}
        vmm.dirty.clear()
        self._armed = True
        sent_bytes = PAGE_BYTES * len(values)
        await self._pass(sent_bytes / self._bandwidth(), values)
        target.send(round_number, values)
        return SentPages(
            pages=len(values),
            sent_bytes=sent_bytes,
            wire_bytes=sent_bytes,
            scan_ns=10_000,
            bytes_by_region={"ram": sent_bytes},
        )

    def _bandwidth(self) -> float:
        """As the pace lets it, when a round begins: bytes a second."""
        allowed = self._pace.bytes_per_second if self._pace else 0
        return min(self._host.bandwidth, allowed or math.inf)

    async def dirty(self) -> DirtyPages:
        """As ``Outgoing.dirty``. Nothing is hot here."""
        self._process.check()
        self._check_vmm()
        self._vmm.advance()
        return DirtyPages(PAGE_BYTES * len(self._vmm.dirty))

    async def digests(self) -> dict[str, bytes]:
        """As ``Outgoing.digests``."""
        await asyncio.sleep(self._process.world.latency_s(CALL_S))
        return _digests(self._vmm)

    def sent_digest(self) -> bytes:
        """As ``Outgoing.sent_digest``: of nothing, for nothing alters pages here."""
        return b""

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
        self._vmm.slow(0, self._process)
        if self._target is not None:
            self._target.close()

    def _lost(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(UnreachableError("a bulk connection broke"))

    def _check_vmm(self) -> None:
        """What is dirty is asked of the VMM's page tables, which go with it."""
        if not self._vmm.alive:
            raise VmmLostError(f"the VMM of {self._vmm.spec.name} is dead")

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
        connections: int,
        lost: Callable[[], None],
    ) -> None:
        self.broken = False
        """Whether the source has seen the end of it."""
        self.session: ProcessSession | None = None
        self._network = network
        self._source = source
        self._destination = destination
        self._lost = lost
        self._arrive_s = [0.0] * connections
        self._dead: set[int] = set()
        """Connections over which nothing comes any more."""
        source.on_death.append(self.close)
        destination.on_death.append(self.hang_up)

    @property
    def is_open(self) -> bool:
        """As ``Breakable.is_open``."""
        return not self.broken and self._source.alive and self._destination.alive

    def send(self, round_number: int | None, values: dict[int, int]) -> None:
        """Send pages; they arrive later. ``round_number``: the round ends with them."""
        count = len(self._arrive_s)
        for connection in range(count):
            part = {page: value for page, value in values.items() if page % count == connection}
            self._later(connection, self._arrive, connection, round_number, part)

    def close(self) -> None:
        """The source ends it, or sees that it is broken; the destination sees it later."""
        if not self.broken:
            self.broken = True
            if self._source.alive:
                self._lost()
            for connection in range(len(self._arrive_s)):
                self._later(connection, self._end)

    def hang_up(self) -> None:
        """The destination ends it; the source sees it later."""
        world = self._source.world
        ready_s = self._network.open_s(self._destination.host, self._source.host)
        world.loop.at(ready_s + world.latency_s(CALL_S), self.close)

    def reset(self) -> None:
        """As ``Breakable.reset``, of one of them."""
        world = self._source.world
        self._dead.add(world.dice.randrange(len(self._arrive_s)))
        world.loop.after(self._network.heard_s(), self.close)
        world.loop.after(self._network.heard_s(), self._end)

    def _later(self, connection: int, act: Callable[..., None], *args: Any) -> None:
        """In this connection's order; whatever was on another may come before or after."""
        world = self._source.world
        ready_s = self._network.open_s(self._source.host, self._destination.host)
        if ready_s - world.loop.time() > STALL_S and not self.broken:
            self._dead.add(connection)
            world.loop.after(STALL_S, self.close)
        ready_s += world.latency_s(CALL_S)
        if world.weather.strikes(Fault.LINK_SLOW):
            ready_s += world.dice.random() * LATE_S_MAX
        self._arrive_s[connection] = max(ready_s, self._arrive_s[connection])
        world.loop.at(self._arrive_s[connection], act, *args)

    def _arrive(self, connection: int, round_number: int | None, values: dict[int, int]) -> None:
        if self.session is not None and self._destination.alive and connection not in self._dead:
            self.session.take(connection, round_number, values)

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
        self._parts: dict[int, dict[int, int]] = {}
        """By round that is not whole yet, by connection: how many pages came."""
        self._failure: UnreachableError | AbortedError | None = None
        self._news = asyncio.Event()
        self._is_sealed = False
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

    def seal(self, _round_number: int) -> None:
        """As ``BulkSession.seal``."""
        self._is_sealed = True

    def applied_digest(self) -> bytes:
        """As ``BulkSession.applied_digest``."""
        return b""

    def take(self, connection: int, round_number: int | None, values: dict[int, int]) -> None:
        """Pages have come over one of the connections."""
        if self._failure is not None or not self._vmm.alive:
            return
        assert not self._is_sealed, "nothing comes after the last round"
        for page, value in values.items():
            self._vmm.memory[page] = value
        if round_number is not None:
            parts = self._parts.setdefault(round_number, {})
            assert connection not in parts, "a connection ends a round once"
            parts[connection] = len(values)
            if len(parts) == self._link.connections:
                self._close_round(round_number, sum(parts.values()))

    def _close_round(self, number: int, pages: int) -> None:
        assert number == len(self._totals) + FIRST_ROUND, "the rounds come in order"
        del self._parts[number]
        self._totals[number] = RoundTotals(pages, PAGE_BYTES * pages, 1)
        self._news.set()

    def fail(self, error: UnreachableError | AbortedError) -> None:
        """Nothing comes any more."""
        if self._failure is None:
            self._failure = error
            self._news.set()
            if self._bulk is not None:
                self._bulk.hang_up()


class ProcessIncoming:
    """``hypervisor.port.Incoming``."""

    def __init__(self, process: Process, vmm: SimulatedVmm) -> None:
        self._process = process
        self._vmm = vmm
        self._session: ProcessSession | None = None

    def receive(
        self,
        session: bytes,
        connections: int,
        *,
        digested: bool,
        compressions: tuple[Compression, ...] = (),
        content: Content | None = None,
    ) -> ProcessSession:
        """As ``Incoming.receive``. Nothing is ever offered or compressed here."""
        link = BulkLink(session, connections, (page_count(self._vmm.spec),), digested)
        self._session = ProcessSession(link, self._process, self._vmm)
        return self._session

    async def populate(self, extents: tuple[bytes, ...]) -> None:
        """As ``Incoming.populate``."""
        self._process.step("populate memory")
        await asyncio.sleep(self._process.world.latency_s(POPULATE_S))
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
