"""The operators of a simulated cluster: they start machines, move them, cancel some moves, stop
machines, end doubts, and start those anew that have died.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random
from typing import Final

from godwit.catalogue.loading import load as load_catalogue
from godwit.runtime.lane import LaneWriter, Scope
from godwit.runtime.patience import patiently
from godwit_protocol.events import Event, Lane
from godwit_protocol.events import bandwidth as bev
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.machine import PAGE_BYTES, MachineSpec, VGpuSpec
from godwit_protocol.roles.effects import Address, Service

from .clock import HostClock
from .log import ProcessLog
from .process import Process
from .services import Cluster

LOOK_S: Final = 0.1
ORDER_S_MAX: Final = 180.0
"""How long an operator waits for what an order brings."""
CANCEL_CHANCE: Final = 0.15
CAPPING_CHANCE: Final = 0.25
"""Of operators who mind the bandwidth. The seeds of the others are worth what they always were."""
BANDWIDTH_CHANCE: Final = 0.4
"""For them: of a migration with a cap, and of one whose cap is changed while it runs."""
BANDWIDTHS: Final = (0, 20_000, 1_000_000)
"""0: none. At the second, a machine takes seconds."""
RENEW_CHANCE: Final = 0.02
ANYWHERE_CHANCE: Final = 0.05
"""Of asking for a host without looking where the machine is."""
VGPUS: Final = (
    ("H100XM-20C",),
    ("H100XM-40C",),
    ("H100XM-1-10C",),
    ("H100XM-2-20C",),
    ("H100XM-20C", "H100XM-4C"),
    ("H100XM-1-10C", "H100XM-3-40C"),
)
"""A GPU is divided in one way at a time: by time, or by MIG."""
PAGES: Final = (8, 16, 32)
"""None of them divisible by the guest's stride."""


@dataclass(frozen=True)
class Plan:
    """What the operators do in one run."""

    machines: int
    migrations: int
    pause_s: float
    """Mean time between two requests."""
    whims: Random
    """Dice for the bandwidth, and for which vGPUs a machine has."""


class Operators:
    """All of them, as one process that never dies."""

    def __init__(self, cluster: Cluster, plan: Plan) -> None:
        world = cluster.world
        self.done = False
        self.machines_started = False
        self._cluster = cluster
        self._plan = plan
        self._dice = world.dice
        self._clock = HostClock(world, "desk")
        self._process = Process(world, "operator", "desk", mortal=False)
        self._log = ProcessLog(cluster.server, self._process)
        self._writers: dict[Scope, LaneWriter] = {}
        self._alone: dict[Scope, asyncio.Lock] = {}
        self._hosts = [place.host.name for place in cluster.places]
        self._starts = cluster.judge.starts
        self._stops = cluster.judge.stops
        self._errands: list[asyncio.Task[None]] = []
        mind = plan.whims.random() < CAPPING_CHANCE
        self._bandwidth_chance = BANDWIDTH_CHANCE if mind else 0.0

    def start(self) -> None:
        """Begin."""
        self._process.spawn(self._work())

    def move_each_once_more(self) -> None:
        """Ask for one migration of each machine, as whether the system still works."""
        self.done = False
        self._process.spawn(self._probe())

    def settle(self) -> None:
        """Do what alarms ask of an operator: end every doubt, and start anew what is dead."""
        self.done = False
        self._process.spawn(self._settle())

    async def _settle(self) -> None:
        for migration in self._cluster.judge.open_migrations:
            await self._resolve(migration)
        while self._cluster.is_switching:  # noqa: ASYNC110  # the cluster knows no tasks
            await asyncio.sleep(LOOK_S)  # a power switch that is under way cannot be called back
        await self._renew_all()
        self.done = True

    async def _renew_all(self) -> None:
        judge = self._cluster.judge
        for name in sorted(judge.started):
            if judge.machines[name].over:
                await self._renew(name)

    async def _resolve(self, migration: str) -> None:
        """Order the machine to run where its current image is; if proof is wanted, get it."""
        judge = self._cluster.judge
        truth = judge.migrations[migration]
        hosts = [truth.source, truth.destination]
        holder = judge.holder_of(truth.machine) or truth.source
        hosts.sort(key=lambda host: host != holder)
        for host, other in (hosts, hosts[::-1]):
            for is_off in (False, True):
                if truth.ended or not host:
                    return
                if is_off:
                    self._cluster.switch_off(other)
                await self._order(migration, host, other_is_off=is_off)

    async def _order(self, migration: str, host: str, *, other_is_off: bool) -> None:
        truth = self._cluster.judge.migrations[migration]
        answers, deadline_s = truth.answers, self._process.world.loop.time() + ORDER_S_MAX
        is_source = host == truth.source
        service = Service.SOURCE_HOST if is_source else Service.DESTINATION_HOST
        order = ev.RunOrdered(target=host, other_is_off=other_is_off, requested_by="operator")
        scope = Scope.of_migration(migration, truth.machine)
        await self._put(scope, order, Address(host, service))
        while truth.answers == answers and not truth.ended:
            await asyncio.sleep(LOOK_S)
            if self._process.world.loop.time() > deadline_s:
                return

    async def _renew(self, name: str) -> None:
        """Stop a machine; if that is done, start it again, somewhere."""
        record = self._cluster.judge.registers.get(name)
        if record is None:
            return
        stop = self._clock.new_id()
        request = mev.MachineStopRequested(stop=stop)
        await self._put(Scope.of_machine(name), request, Address(record.owner, Service.SOURCE_HOST))
        while stop not in self._stops:  # noqa: ASYNC110  # the judge knows no tasks
            await asyncio.sleep(LOOK_S)
        if self._stops[stop]:
            await self._start_machine(name)

    async def _probe(self) -> None:
        for machine in sorted(self._cluster.judge.started):
            owner = self._cluster.judge.registers[machine].owner
            host = self._dice.choice([host for host in self._hosts if host != owner])
            migration = self._clock.new_id()
            self._cluster.judge.probes.add(migration)
            limits = ev.Limits(stun_limit_ns=2_000_000_000)
            requested = ev.MigrationRequested(machine=machine, destination=host, limits=limits)
            await self._put(Scope.of_migration(migration, machine), requested)
        self.done = True

    async def _work(self) -> None:
        names = [f"m{index}" for index in range(1, self._plan.machines + 1)]
        await asyncio.gather(*[self._process.spawn(self._start_machine(name)) for name in names])
        self.machines_started = True
        for _ in range(self._plan.migrations):
            await self._migrate(self._dice.choice(names))
            await asyncio.sleep(self._dice.expovariate(1 / self._plan.pause_s))
            if self._dice.random() < RENEW_CHANCE:
                self._errands.append(self._process.spawn(self._renew(self._dice.choice(names))))
        await asyncio.gather(*self._errands)
        self.done = True

    async def _start_machine(self, name: str) -> None:
        """Start it on the first host that takes it."""
        spec = MachineSpec(
            name=name,
            guest="simulated:Guest",
            ram_bytes=self._dice.choice(PAGES) * PAGE_BYTES,
            vgpus=self._vgpus(),
            env={"STEP_S": str(self._dice.choice((0.0005, 0.002, 0.01, 0.1)))},
        )
        for host in self._dice.sample(self._hosts, len(self._hosts)):
            start = self._clock.new_id()
            request = mev.MachineStartRequested(start=start, spec=spec)
            await self._put(Scope.of_machine(name), request, Address(host, Service.SOURCE_HOST))
            while start not in self._starts:  # noqa: ASYNC110  # the judge knows no tasks
                await asyncio.sleep(LOOK_S)
            if self._starts[start]:
                return

    def _vgpus(self) -> tuple[VGpuSpec, ...]:
        if self._dice.random() < 0.5:
            return ()
        names = self._plan.whims.choice(VGPUS)
        catalogue = load_catalogue()
        return tuple(VGpuSpec(name, catalogue.profile(name).framebuffer_bytes) for name in names)

    async def _migrate(self, machine: str) -> None:
        migration = self._clock.new_id()
        dice = self._dice
        record = self._cluster.judge.registers.get(machine)
        elsewhere = [host for host in self._hosts if record is None or host != record.owner]
        hosts = self._hosts if dice.random() < ANYWHERE_CHANCE else elsewhere
        requested = ev.MigrationRequested(
            machine=machine,
            destination=dice.choice(hosts),
            limits=ev.Limits(
                stun_limit_ns=dice.choice((20, 100, 500, 2000)) * 1_000_000,
                deadline_ns=dice.choice((5, 20, 60)) * 1_000_000_000,
                rounds_max=dice.choice((3, 30)),
                bandwidth_bytes_per_second=self._whim(),
            ),
            verify=dice.choice((ev.Verify.OFF, ev.Verify.OFF, ev.Verify.FULL)),
        )
        await self._put(Scope.of_migration(migration, machine), requested)
        while self._plan.whims.random() < self._bandwidth_chance:
            self._errands.append(self._process.spawn(self._set_bandwidth(migration, machine)))
        if dice.random() < CANCEL_CHANCE:
            self._errands.append(self._process.spawn(self._cancel(migration, machine)))

    def _whim(self) -> int:
        whims = self._plan.whims
        return whims.choice(BANDWIDTHS) if whims.random() < self._bandwidth_chance else 0

    async def _set_bandwidth(self, migration: str, machine: str) -> None:
        """Perhaps while it is prepared, perhaps when it is over."""
        whims = self._plan.whims
        await asyncio.sleep(whims.choice((0.02, 0.1, 0.5, 5.0)) * whims.random())
        wanted = bev.BandwidthRequested(
            order=self._clock.new_id(), bandwidth_bytes_per_second=whims.choice(BANDWIDTHS)
        )
        await self._put(Scope.of_migration(migration, machine), wanted)

    async def _cancel(self, migration: str, machine: str) -> None:
        await asyncio.sleep(self._dice.choice((0.02, 0.1, 0.5, 5.0)) * self._dice.random())
        await self._put(Scope.of_migration(migration, machine), ev.CancelRequested())

    async def _put(self, scope: Scope, event: Event, to: Address | None = None) -> None:
        writer = self._writers.setdefault(
            scope, LaneWriter(self._clock, Lane.OPERATOR, "desk", scope)
        )
        async with self._alone.setdefault(scope, asyncio.Lock()):
            sealed = writer.seal(event, to=to)
            await patiently(
                lambda: self._log.append(sealed.subject, sealed.data, message_id=sealed.message_id)
            )
            writer.advance(sealed)
