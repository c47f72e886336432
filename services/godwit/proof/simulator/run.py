"""One run: a world made of a seed, a storm of faults, then calm; and what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from godwit_protocol import subjects
from godwit_protocol.stored import Stored

from . import folds
from .clock import HostClock
from .disk import HostDisk
from .faults import Fault, Weather
from .hypervisor import Host
from .judge import Judge
from .machine import SimulatedVmm
from .operator import Operators, Plan
from .process import World
from .services import BOOT_S, Cluster, Place

START_S_MAX: Final = 60.0
STORM_S_MAX: Final = 600.0
CALM_S_MAX: Final = 900.0
"""Virtual seconds in which everything must come to rest after the last fault. The longest wait of
the services is a migration's deadline and three graces."""
REST_S: Final = 3.0
RESTORE_S: Final = 25.0
"""In which a host finds twice that a register has lost what it had seen, and writes it again."""
LOOK_S: Final = 0.05
HARSH_REMAINDER: Final = 3
"""Every fifth seed is harsh: its services die several times in each migration."""


@dataclass(frozen=True)
class Run:
    """What came of one seed."""

    seed: int
    migrations: int
    outcomes: Counter[str]
    faults: Counter[Fault]
    restarts: int
    violations: tuple[str, ...]
    notes: tuple[str, ...]
    virtual_s: float
    steps: int
    events: int


def simulate(seed: int, listen: Callable[[str], None] | None = None) -> Run:
    """Run the seed's world to its end. ``listen`` is given each event in words."""
    simulation = _Simulation(seed, listen)
    try:
        return simulation.run()
    finally:
        simulation.world.bury()


def events_of(seed: int) -> list[Stored]:
    """Run the seed's world to its end; return all events of its log."""
    simulation = _Simulation(seed, None)
    try:
        simulation.run()
        return list(simulation.cluster.server.streams[subjects.EVENTS].messages)
    finally:
        simulation.world.bury()


class _Simulation:
    def __init__(self, seed: int, listen: Callable[[str], None] | None) -> None:
        self.seed = seed
        self.dice = Random(seed)
        self.weather = Weather(self.dice, is_harsh=seed % 5 == HARSH_REMAINDER)
        self.world = World(self.weather, listen)
        self.judge = Judge(self.world)
        places = [self._place(f"host-{index}") for index in range(1, self.dice.choice((3, 4)) + 1)]
        self.cluster = Cluster(self.world, self.judge, places)
        plan = Plan(
            machines=self.dice.randint(2, 5),
            migrations=25,
            pause_s=self.dice.choice((0.05, 0.3, 1.0)),
            whims=Random(f"whims of {seed}"),
        )
        self.operators = Operators(self.cluster, plan)

    def run(self) -> Run:
        world = self.world
        self.cluster.start()
        self.operators.start()
        world.loop.run_until(lambda: self.operators.machines_started, START_S_MAX)
        self.weather.raging = True
        for fault in self.weather.periods_s:
            self._schedule(fault)
        world.loop.run_until(lambda: self.operators.done, world.loop.time() + STORM_S_MAX)
        world.loop.run_until(lambda: False, world.loop.time() + self.dice.random() * 3.0)
        self._calm()
        self._rest()
        self.operators.settle()
        self._rest()
        self.operators.move_each_once_more()
        self._rest()
        self._close()
        return self._result()

    def _calm(self) -> None:
        """The faults are over, those that last too. Clocks of hosts stay as they are; those that
        deadlines of migrations are told by are set right.
        """
        self.weather.raging = False
        self.cluster.heal()
        self.world.note("WEATHER", "the faults are over")

    def _rest(self) -> None:
        loop = self.world.loop
        loop.run_until(self._is_at_rest, loop.time() + CALM_S_MAX, every_s=LOOK_S)
        rest_s = RESTORE_S if self.judge.has_lost_writes else REST_S
        loop.run_until(lambda: False, loop.time() + rest_s)

    def _is_at_rest(self) -> bool:
        if not self.operators.done or self.judge.open_migrations or not self.cluster.is_idle:
            return False
        if self.judge.is_any_register_behind:
            return False
        return next(folds.lagging(self.cluster, self.judge), None) is None

    def _close(self) -> None:
        if not self.operators.done:
            self.judge.accuse("the operators could not do their work")
        self.judge.close()
        for difference in folds.differences(self.cluster, self.judge):
            self.judge.accuse(f"fold: {difference}")
        for place in self.cluster.places:
            for service, name in place.disk.files:
                self.judge.accuse(f"{place.host.name} still has a journal of {service}: {name}")

    def _result(self) -> Run:
        judge, world = self.judge, self.world
        return Run(
            seed=self.seed,
            migrations=len(judge.migrations),
            outcomes=judge.outcomes(),
            faults=self.weather.injected,
            restarts=sum(self.cluster.restarts.values()),
            violations=tuple(judge.violations),
            notes=tuple(world.notes()),
            virtual_s=world.loop.time(),
            steps=world.loop.steps,
            events=judge.events,
        )

    def _place(self, name: str) -> Place:
        clock = HostClock(self.world, name)
        bandwidth = self.dice.choice((1e6, 1e7, 1e8, 1e9))
        gpus = self.dice.choice(("H100-80GB:1", "H100-80GB:2", ""))
        if name == "host-1":
            gpus = "H100-80GB:2"
        return Place(Host(name, clock, self.judge, bandwidth), clock, HostDisk(self.world), gpus)

    # Faults that strike from outside.

    def _schedule(self, fault: Fault) -> None:
        wait_s = self.dice.expovariate(1 / self.weather.periods_s[fault])
        self.world.loop.after(wait_s, self._strike, fault)

    def _strike(self, fault: Fault) -> None:
        if not self.weather.raging:
            return
        if self._do(fault):
            self.weather.injected[fault] += 1
            self.world.note("WEATHER", fault)
        self._schedule(fault)

    def _do(self, fault: Fault) -> bool:
        """Return whether there was anything that it could strike."""
        dice, now_s = self.dice, self.world.loop.time()
        running = dice.choice(list(self.cluster.running.values()))
        place, other = dice.sample(self.cluster.places, 2)
        network, seconds = self.cluster.network, dice.choice((0.5, 3.0, 12.0)) * dice.random()
        match fault:
            case Fault.SERVICE_CRASH:
                was_alive = running.process.alive
                running.process.die("killed")
                return was_alive
            case Fault.SERVICE_STOPPED:
                running.process.stop_for(seconds)
            case Fault.LOG_DOWN:
                self.cluster.server.down_until_s = now_s + seconds
            case Fault.VMM_KILLED:
                return self._kill_a_vmm()
            case Fault.POWER_LOST:
                return self.cluster.lose_power(place, BOOT_S + seconds)
            case Fault.LOG_CUT:
                running.log.cut_until_s = now_s + seconds
            case Fault.LOG_HALF_CUT:
                running.log.deaf_until_s = now_s + seconds
            case Fault.LINK_RESET:
                return network.reset_one()
            case Fault.LINK_CUT:
                network.cut(place.host.name, other.host.name, seconds)
                network.cut(other.host.name, place.host.name, seconds)
            case Fault.LINK_HALF_CUT:
                network.cut(place.host.name, other.host.name, seconds)
            case Fault.DISK_FULL:
                place.disk.full_until_s = now_s + seconds
            case Fault.CLOCK_JUMP:
                self._jump(dice.randrange(-60, 60) * 1_000_000_000)
            case _:
                raise ValueError(f"{fault} strikes calls, not the world")
        return True

    def _kill_a_vmm(self) -> bool:
        vmms = [(place.host, vmm) for place in self.cluster.places for vmm in _vmms(place)]
        if vmms:
            host, vmm = self.dice.choice(vmms)
            host.kill(vmm, "killed")
        return bool(vmms)

    def _jump(self, by_ns: int) -> None:
        """The wall clock of a host, of a replica's host, or of the log's server."""
        clocks = self.cluster.clocks
        which = self.dice.randrange(len(clocks) + 1)
        if which < len(clocks):
            clocks[which].wall_offset_ns += by_ns
        else:
            self.cluster.server.clock_offset_ns += by_ns


def _vmms(place: Place) -> list[SimulatedVmm]:
    return [vmm for _, vmm in sorted(place.host.vmms.items())]
