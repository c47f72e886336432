"""Starts the real services in simulated processes, and starts them again when they end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from godwit.catalogue.loading import load as load_catalogue
from godwit.coordinator import service as coordinator
from godwit.coordinator.losses import Losses
from godwit.coordinator.service import Desk
from godwit.destination_host.service import DestinationHost
from godwit.gpu_state_tracker import service as tracker
from godwit.gpu_state_tracker.tracker import Tracker
from godwit.gpus.simulated import SimulatedGpus
from godwit.host.context import HostContext
from godwit.host.fencing import Fencing, NoFencing, Proof
from godwit.host.registers import Registers
from godwit.runtime import config as configuration
from godwit.runtime.config import Config, Service
from godwit.runtime.health import Health
from godwit.runtime.outbox import Outbox
from godwit.source_host.service import SourceHost
from godwit_protocol.errors import GodwitError
from godwit_protocol.link import LINK_VERSION
from godwit_protocol.link_probe import LinkFound

from .clock import HostClock
from .disk import HostDisk
from .faults import Fault
from .hypervisor import Host, ProcessHypervisor
from .judge import Judge
from .link import Network
from .log import LogServer, ProcessLog
from .process import Process, World

RESTART_S: Final = 0.3
BOOT_S: Final = 3.0
OFF_S: Final = 30.0
OFF_LONG_S: Final = (0.0, 30.0, 240.0)
"""Within such times a host boots again that lost its power at a step: its peer may be in doubt."""
SWITCH_S: Final = 1.0
HALF: Final = 0.5
CONTROL_HOST: Final = "control"
COORDINATORS: Final = ("coordinator-1", "coordinator-2")
TRACKERS: Final = ("tracker-1", "tracker-2")

Life = Callable[["Running"], Coroutine[Any, Any, None]]


@dataclass
class Running:
    """One life of a service: its process and its connection to the log."""

    process: Process
    log: ProcessLog
    tasks: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)
    outbox: Outbox | None = None
    service: Desk | Tracker | SourceHost | DestinationHost | None = None
    """What has the state of this life."""


@dataclass
class Place:
    """One simulated host, with all that survives its services."""

    host: Host
    clock: HostClock
    disk: HostDisk
    gpus: str
    off_until_s: float = 0.0
    """It has no power until then."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of its services' environment, beside those that they all have."""


class Cluster:
    """All services of all hosts."""

    def __init__(self, world: World, judge: Judge, places: list[Place]) -> None:
        self.world = world
        self.judge = judge
        self.places = places
        self.network = Network(world)
        self.server = LogServer(world, judge.stored, judge.lost)
        self.has_switch = world.weather.has_deaths and world.dice.random() < HALF
        """Whether a host's power can be taken by a program."""
        self.running: dict[str, Running] = {}
        self.restarts: Counter[str] = Counter()
        self.switching: list[Process] = []
        """Who is about to take a host's power; some may have died of something meanwhile."""
        self._replicas = {name: HostClock(world, name) for name in (*COORDINATORS, *TRACKERS)}

    def start(self) -> None:
        """Start everything."""
        for name in COORDINATORS:
            self._live(name, CONTROL_HOST, self._coordinator(name))
        for name in TRACKERS:
            self._live(name, CONTROL_HOST, self._tracker(name))
        for place in self.places:
            name = place.host.name
            self.world.take_power[name] = partial(self._lose_power_at_step, place)
            self._live(f"source-{name}", name, self._source(place))
            self._live(f"destination-{name}", name, self._destination(place))

    @property
    def clocks(self) -> list[HostClock]:
        """Every wall clock but the log server's."""
        return [place.clock for place in self.places] + list(self._replicas.values())

    @property
    def is_switching(self) -> bool:
        """Whether some host is about to lose its power to a program, needed still or not."""
        return any(process.alive for process in self.switching)

    @property
    def is_idle(self) -> bool:
        """Whether no host service has anything left to do."""
        journals = any(place.disk.files for place in self.places)
        outboxes = [running.outbox for running in self.running.values()]
        waiting = any(outbox is not None and outbox.depth for outbox in outboxes)
        return not journals and not waiting

    def heal(self) -> None:
        """End what lasts: cuts, silence, full disks."""
        self.network.heal()
        self.server.down_until_s = 0.0
        self.server.clock_offset_ns = 0
        for clock in self._replicas.values():
            clock.wall_offset_ns = 0
        for running in self.running.values():
            running.log.heal()
        for place in self.places:
            place.disk.full_until_s = 0.0

    def lose_power(self, place: Place, seconds: float) -> bool:
        """All that runs on a host is gone at once, and nobody is told. It boots after a while.

        Returns whether it had power.
        """
        now_s = self.world.loop.time()
        if place.off_until_s > now_s:
            return False
        place.off_until_s = now_s + seconds
        self.network.isolate(place.host.name, seconds)
        for running in self.running.values():
            if running.process.host == place.host.name:
                running.process.die("lost its power")
                running.log.vanish()
        place.host.lose_power()
        place.disk.lose_power()
        place.clock.reboot()
        return True

    def _lose_power_at_step(self, place: Place) -> None:
        dice = self.world.dice
        self.lose_power(place, BOOT_S + dice.choice(OFF_LONG_S) * dice.random())

    def switch_off(self, host: str) -> None:
        """Whoever must know that a host runs nothing takes its power."""
        place = next(place for place in self.places if place.host.name == host)
        self.lose_power(place, OFF_S)

    def _live(self, name: str, host: str, life: Life) -> None:
        process = Process(self.world, name, host)
        running = Running(process, ProcessLog(self.server, process))
        self.running[name] = running
        process.on_death.append(lambda: self._again(process, life))
        process.spawn(self._run(running, life))
        self.world.note(name, "started")

    def _again(self, process: Process, life: Life) -> None:
        """The next life begins when all that the last one did has left it."""
        name, host = process.name, process.host
        self.restarts[name] += 1
        delay_s = RESTART_S * (1 + 4 * self.world.dice.random()) + process.lag_s()
        self.world.loop.after(delay_s, self._boot, name, host, life)

    def _boot(self, name: str, host: str, life: Life) -> None:
        """Start it, but not before its host has power."""
        now_s = self.world.loop.time()
        off_s = max(
            (place.off_until_s for place in self.places if place.host.name == host), default=0
        )
        if off_s > now_s:
            wait_s = off_s - now_s + RESTART_S * self.world.dice.random()
            self.world.loop.after(wait_s, self._boot, name, host, life)
        else:
            self._live(name, host, life)

    async def _run(self, running: Running, life: Life) -> None:
        """One life. It ends as a real service would: by an error that nobody took."""
        try:
            async with running.tasks:
                await life(running)
        except Exception as error:
            self._judge_end(running.process, error)
        running.process.die("ended")

    def _judge_end(self, process: Process, error: Exception) -> None:
        for cause in _leaves(error):
            self.world.note(process.name, f"ends: {cause!r}")
            if not isinstance(cause, GodwitError):
                self.judge.accuse(f"{process.name} ended by a defect: {cause!r}")

    def _coordinator(self, name: str) -> Life:
        async def life(running: Running) -> None:
            losses = Losses(running.log, self._fencing(running.process), self._is_alive)
            running.service = Desk(
                running.log,
                self._replicas[name],
                name,
                running.tasks,
                load_catalogue(),
                _reach,
                losses,
            )
            await coordinator.serve(running.service, running.log, Health(name))

        return life

    def _tracker(self, name: str) -> Life:
        async def life(running: Running) -> None:
            clock = self._replicas[name]
            running.service = Tracker(running.log, clock, name, load_catalogue())
            await tracker.serve(running.service, running.log, running.tasks, Health(name))

        return life

    def _source(self, place: Place) -> Life:
        config = _config(Service.SOURCE_HOST, place)

        async def life(running: Running) -> None:
            host = self._context(place, running, config)
            gpus = SimulatedGpus(host.name, config.gpus, load_catalogue(), config.gpu_facts)
            running.service = SourceHost(host, running.tasks, Health("source_host"), gpus)
            await running.service.run()

        return life

    def _destination(self, place: Place) -> Life:
        config = _config(Service.DESTINATION_HOST, place)

        async def life(running: Running) -> None:
            host = self._context(place, running, config)
            listener = self.network.listen(running.process)
            health = Health("destination_host")
            running.service = DestinationHost(host, running.tasks, health, listener)
            await running.service.run()

        return life

    def _context(self, place: Place, running: Running, config: Config) -> HostContext:
        process, log = running.process, running.log
        disk = place.disk.seen_by(process)
        running.outbox = Outbox(log)
        return HostContext(
            name=place.host.name,
            config=config,
            clock=place.clock,
            log=log,
            outbox=running.outbox,
            registers=Registers(log, disk.marks()),
            hypervisor=ProcessHypervisor(place.host, process, self.network),
            disk=disk,
            dial=self.network.dialer(process),
            fencing=self._fencing(process),
        )

    def _fencing(self, process: Process) -> Fencing:
        return PowerSwitch(self, process) if self.has_switch else NoFencing()

    async def _is_alive(self, host: str) -> bool:
        """``IsAlive``: services that are down for a moment are asked again until they answer."""
        now_s = self.world.loop.time()
        return any(place.host.name == host and place.off_until_s <= now_s for place in self.places)


class PowerSwitch:
    """``host.fencing.Fencing``: a site's program that takes a host's power, and says so."""

    needs_operator: Final = False

    def __init__(self, cluster: Cluster, process: Process) -> None:
        self._cluster = cluster
        self._process = process

    async def prove_off(self, host: str, vouched_by: str = "") -> Proof:
        """As ``Fencing.prove_off``: no word of an operator is needed, nor taken."""
        self._process.step(f"switch off {host}")
        self._cluster.switching.append(self._process)
        try:
            await asyncio.sleep(self._process.world.latency_s(SWITCH_S))
        finally:
            self._cluster.switching.remove(self._process)
        self._cluster.switch_off(host)
        self._process.world.weather.injected[Fault.FENCED] += 1
        self._process.step(f"{host} is off")
        return Proof(program="power-switch", answer=f"powered-off {host}")


async def _reach(source: str, destination: str) -> LinkFound:
    """``LookAtLink``: a source finds the destination. That links break is the network's to play."""
    return LinkFound(
        ask="",
        source=source,
        destination=destination,
        address=destination,
        port=1,
        wall_ns=0,
        own_version=LINK_VERSION,
        answered_by=destination,
        version=LINK_VERSION,
    )


def _config(service: Service, place: Place) -> Config:
    name = place.host.name
    environ = {
        "GODWIT_HOST": name,
        "GODWIT_DIR": str(Path("/simulated")),
        "GODWIT_GPUS": place.gpus,
        "GODWIT_LINK_HOST": name,
        "GODWIT_BULK_CONNECTIONS": "2",  # whatever the cores of this machine
        "GODWIT_CONTENT_STORE": "off",  # a simulated machine's memory is in no file
        **place.variables,
    }
    return configuration.load(service, environ)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
