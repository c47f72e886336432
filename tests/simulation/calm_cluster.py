"""A simulated cluster in calm weather, driven step by step by a test."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from random import Random

import msgspec

from godwit.proof.simulator.clock import HostClock
from godwit.proof.simulator.disk import HostDisk
from godwit.proof.simulator.faults import Weather
from godwit.proof.simulator.hypervisor import Host
from godwit.proof.simulator.judge import Judge
from godwit.proof.simulator.log import ProcessLog
from godwit.proof.simulator.process import Process, World
from godwit.proof.simulator.services import Cluster, Place
from godwit.runtime.lane import LaneWriter, Scope
from godwit_protocol import codec, subjects
from godwit_protocol.events import Event, Lane
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.machine import MachineSpec
from godwit_protocol.roles.effects import Address, Service

SPEC = MachineSpec(name="m", guest="simulated:Guest", ram_bytes=8 * 4096)
PATIENCE_S = 300.0
STORIES = Path(__file__).parents[1] / "golden" / "shells"
_CHANCE = re.compile(
    r"(?<=^log) \d+ *(?= )|(?<=coordinator)-\d|(?<=tracker)-\d|,? (from|after) step \d+"
)
_TELLS = re.compile(r"log \d|register |host-|m  ")


class CalmCluster:
    """Two or more hosts, all services, no faults but those that the test makes."""

    def __init__(
        self, hosts: int = 2, variables: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        """``variables``: by host, what its services find in their environment."""
        self._variables = variables or {}
        self.world = World(Weather(Random(1)))
        self.judge = Judge(self.world)
        names = [f"host-{index}" for index in range(1, hosts + 1)]
        self.cluster = Cluster(self.world, self.judge, [self._place(name) for name in names])
        self._desk = Process(self.world, "operator", "desk", mortal=False)
        self._log = ProcessLog(self.cluster.server, self._desk)
        self._clock = HostClock(self.world, "desk")
        self._writers: dict[Scope, LaneWriter] = {}
        self._turns: dict[Scope, asyncio.Lock] = {}
        self.cluster.start()

    def place(self, host: str) -> Place:
        return next(place for place in self.cluster.places if place.host.name == host)

    def until(self, done: Callable[[], bool]) -> None:
        deadline_s = self.world.loop.time() + PATIENCE_S
        assert self.world.loop.run_until(done, deadline_s), "\n".join(self.world.notes()[-40:])

    def rest(self, seconds: float = 5.0) -> None:
        self.world.loop.run_until(lambda: False, self.world.loop.time() + seconds)

    def put(self, scope: Scope, event: Event, to: Address | None = None) -> None:
        """Append an operator's event; it is stored soon."""
        fresh = LaneWriter(self._clock, Lane.OPERATOR, "desk", scope)
        writer = self._writers.setdefault(scope, fresh)
        sealed = writer.seal(event, to=to)
        writer.advance(sealed)
        append = self._log.append(sealed.subject, sealed.data, message_id=sealed.message_id)
        self._desk.spawn(self._in_turn(scope, append))

    async def _in_turn(self, scope: Scope, append: Awaitable[int]) -> None:
        async with self._turns.setdefault(scope, asyncio.Lock()):
            await append

    def start(self, host: str = "host-1", start: str = "start", machine: str = "m") -> None:
        spec = msgspec.structs.replace(SPEC, name=machine)
        request = mev.MachineStartRequested(start=start, spec=spec)
        self.put(Scope.of_machine(machine), request, Address(host, Service.SOURCE_HOST))

    def stop(self, stop: str = "stop", host: str = "host-1") -> None:
        request = mev.MachineStopRequested(stop=stop)
        self.put(Scope.of_machine("m"), request, Address(host, Service.SOURCE_HOST))

    def migrate(
        self,
        destination: str = "host-2",
        deadline_ns: int = 600_000_000_000,
        machine: str = "m",
        bandwidth: int = 0,
        verify: ev.Verify = ev.Verify.OFF,
    ) -> str:
        migration = self._clock.new_id()
        limits = ev.Limits(
            stun_limit_ns=2_000_000_000,
            deadline_ns=deadline_ns,
            bandwidth_bytes_per_second=bandwidth,
        )
        requested = ev.MigrationRequested(
            machine=machine, destination=destination, limits=limits, verify=verify
        )
        self.put(Scope.of_migration(migration, machine), requested)
        return migration

    def told(self, kind: type[Event]) -> list[Event]:
        """All events of a type, in the log's order."""
        stored = self.cluster.server.streams[subjects.EVENTS].messages
        events = [codec.decode(message.data).event for message in stored]
        return [event for event in events if isinstance(event, kind)]

    def has_told(self, kind: type[Event], times: int = 1) -> Callable[[], bool]:
        return lambda: len(self.told(kind)) >= times

    def story(self) -> list[str]:
        """What was written and what became of the machine, whenever, and by whichever replica."""
        told = (note.split(maxsplit=1)[1] for note in self.world.notes())
        lines = [_CHANCE.sub("", line) for line in told if _TELLS.match(line)]
        return [line for line in lines if not line.endswith(mev.HostAnnounced.TYPE)]

    def _place(self, name: str) -> Place:
        clock = HostClock(self.world, name)
        host, disk = Host(name, clock, self.judge, 1e8), HostDisk(self.world)
        return Place(host, clock, disk, "", variables=self._variables.get(name, {}))


def check_story(calm: CalmCluster, name: str, why: str) -> None:
    """Compare what happened with the story that was reviewed. ``why``: its first lines."""
    path = STORIES / f"{name}.txt"
    told = "\n".join([*inspect.cleandoc(why).splitlines(), "", *calm.story()]) + "\n"
    if os.environ.get("GODWIT_GOLDEN") == "rewrite":
        path.parent.mkdir(exist_ok=True)
        path.write_text(told, encoding="utf-8")
    assert told == path.read_text(encoding="utf-8"), (
        "the services behave differently: review it, then set GODWIT_GOLDEN=rewrite"
    )
