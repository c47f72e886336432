"""A cluster of two hosts of its own, a machine that is asked all the time, and a watch on both.

What a cell of the matrix stands on. It knows how to find and stop each party, but not which faults
there are, nor what must hold afterwards (see ``aftermath``).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final
from uuid import uuid4

import wires
from processes import is_stopped, sockets
from run_service import plan_path
from stamped_trainer import STAMPED_TRAINER
from steps import HOST_ROLES, Role, Step
from twin import Twin
from wires import Wires

from godwit.cli.connection import append_as_operator
from godwit.cli.guest_client import GuestClient
from godwit.hypervisor.native.paths import MachineFolder
from godwit.hypervisor.port import VmmState, VmmStatus
from godwit.local_cluster.cluster import CLUSTER_SERVICES, HOST_SERVICES, LAUNCHER, Cluster
from godwit.local_cluster.supervised import Program, Supervised, answers_healthy
from godwit.runtime.lane import Scope
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.nats_server import NatsServer
from godwit_protocol.errors import GodwitError
from godwit_protocol.events import migration as ev
from godwit_protocol.events.reservation import ReservationConfirmed
from nats_cluster import SERVERS, NatsCluster
from operations import Operations

HOSTS: Final = ("host-1", "host-2")
POLL_S: Final = 0.05
REACHED_S_MAX: Final = 60.0
SETTLED_S_MAX: Final = 60.0
LIMITS: Final = ev.Limits(stun_limit_ns=2_000_000_000, deadline_ns=40_000_000_000)
SECOND_COORDINATOR: Final = "coordinator-2"
ONE_THREAD: Final = "OPENBLAS_NUM_THREADS=1"


class ViolatedError(AssertionError):
    """What must always hold does not."""


class Setting(StrEnum):
    """What the services of an arena are."""

    PLAIN = "one server, one coordinator"
    TWO_COORDINATORS = "two coordinators"
    THREE_SERVERS = "three nats-servers"


@dataclass
class Exchanges:
    """All questions to a machine and all replies, as far as they have been read."""

    read_until: int = 0
    asked: dict[str, int] = field(default_factory=dict)
    """By the question's id, its place in the log."""
    replies: Counter[str] = field(default_factory=Counter)
    """By the question's id: a second one is found however late it comes."""


@dataclass
class Subject:
    """The machine under test, and what was seen of it."""

    name: str
    twin: Twin
    asking: asyncio.Task[None]
    watching: asyncio.Task[None]
    former: str = ""
    """The last migration that was checked: what its services still do is none of the next one's."""
    exchanges: Exchanges = field(default_factory=Exchanges)
    violations: list[str] = field(default_factory=list)


class Arena:
    """Two hosts and a machine. Used for one migration after the other."""

    def __init__(
        self,
        cluster: Cluster,
        servers: NatsServer | NatsCluster,
        log: NatsLog,
        wires: Wires | None,
    ) -> None:
        self.cluster = cluster
        self.servers = servers
        self.wires = wires
        self.operations = Operations(cluster, log)
        self.subject: Subject | None = None
        self._second: Supervised | None = None
        self.sockets_at_rest = {name: sockets(self.pid(name)) for name in self.services()}

    @classmethod
    @asynccontextmanager
    async def open(
        cls, directory: Path, setting: Setting = Setting.PLAIN, *, wired: bool | None = None
    ) -> AsyncIterator[Arena]:
        """Start everything in ``directory``; at the end, end it.

        ``wired``: see ``wires``; by default if this user may, and there is one server.
        """
        (directory / "plans").mkdir(parents=True)
        if wired is None:
            wired = wires.is_possible() and setting is not Setting.THREE_SERVERS
        async with AsyncExitStack() as stack:
            # Not in the cluster's directory: what is left running there is ended.
            servers = await _start_servers(stack, directory.parent / "nats", setting)
            laid = None
            if wired:
                laid = await stack.enter_async_context(Wires.lay(HOSTS, directory, servers.url))
            cluster = await _start_cluster(directory, servers.url, setting)
            stack.push_async_callback(cluster.stop)
            log = await NatsLog.connect(servers.url, name="chaos")
            stack.push_async_callback(log.close)
            arena = cls(cluster, servers, log, laid)
            stack.push_async_callback(arena.forget_machine)
            if setting is Setting.TWO_COORDINATORS:
                await stack.enter_async_context(arena.second_coordinator())
            yield arena

    @asynccontextmanager
    async def second_coordinator(self) -> AsyncIterator[None]:
        """Another replica, beside the cluster's own."""
        place = self.cluster.directory / "services" / "coordinator" / SECOND_COORDINATOR
        program = Program(
            SECOND_COORDINATOR,
            ("run_service", "godwit.coordinator"),
            self.cluster.environ() | {"GODWIT_COORDINATOR_ID": SECOND_COORDINATOR},
            self.cluster.directory / "logs" / f"{SECOND_COORDINATOR}.log",
            answers_healthy(place / "health.json"),
        )
        second = Supervised(program, lambda line: print(line, file=sys.stderr))
        await second.start()
        self._second = second
        self.sockets_at_rest[SECOND_COORDINATOR] = sockets(second.pid)
        try:
            yield
        finally:
            self._second = None
            await second.stop()

    def services(self) -> tuple[str, ...]:
        """The names of all services, which ``pid`` takes."""
        of_hosts = (f"{host}-{service}" for host in HOSTS for service in HOST_SERVICES)
        second = (SECOND_COORDINATOR,) if self._second else ()
        return (*CLUSTER_SERVICES, *of_hosts, *second)

    def launchers(self) -> tuple[str, ...]:
        """The names of the hosts' launchers, which ``cluster`` takes."""
        return tuple(f"{host}-{LAUNCHER}" for host in HOSTS)

    def pid(self, service: str) -> int:
        """The process id of a service. Raises ``UnreachableError`` if it is down."""
        if service == SECOND_COORDINATOR and self._second is not None:
            return self._second.pid
        return self.cluster.pid(service)

    # The machine.

    async def machine(self) -> Subject:
        """The machine of the former cell if it lives, or a new one."""
        if self.subject is None:
            name = f"m-{uuid4().hex[:12]}"
            twin = Twin()
            await self.operations.start(
                name, STAMPED_TRAINER, ram="4MiB", vgpus=["H100XM-4C"], env=[ONE_THREAD]
            )
            # The tracker has said the last of the start: what it says next is of a migration.
            await self.operations.event_of_machine(name, ReservationConfirmed)
            violations: list[str] = []
            self.subject = Subject(
                name,
                twin,
                asyncio.create_task(self._keep_asking(name)),
                asyncio.create_task(self._watch(name, violations)),
                violations=violations,
            )
        return self.subject

    async def forget_machine(self) -> None:
        """Ask and watch no more; the next cell gets a new machine."""
        subject, self.subject = self.subject, None
        if subject is not None:
            for task in (subject.asking, subject.watching):
                task.cancel()
                await asyncio.wait({task})

    async def bury_machine(self) -> None:
        """The machine is dead: an operator stops it, and all that it held is free again."""
        assert self.subject is not None
        name = self.subject.name
        await self.forget_machine()
        await self.operations.stop(name)
        async with asyncio.timeout(SETTLED_S_MAX):
            for host in HOSTS:
                while await self.operations.reservations(host):  # noqa: ASYNC110
                    await asyncio.sleep(POLL_S)

    async def owner(self) -> str:
        """The host that the register names."""
        assert self.subject is not None
        return (await self.operations.record(self.subject.name)).owner

    def other(self, host: str) -> str:
        """The host that is not ``host``."""
        return next(each for each in HOSTS if each != host)

    async def _keep_asking(self, name: str) -> None:
        """Whether all were answered, once each, is read from the log afterwards."""
        request = json.dumps({"op": "status"}).encode()
        while True:
            with suppress(GodwitError):
                async with GuestClient(self.operations.log, name) as client:
                    while True:
                        await client.ask(request)
                        await asyncio.sleep(POLL_S)
            await asyncio.sleep(POLL_S)

    async def _watch(self, name: str, violations: list[str]) -> None:
        """Look at both hosts again and again: nobody may see two that run."""
        first, second = HOSTS
        while True:
            seen = [await self.look(host, name) for host in (first, second, first)]
            if all(each is not None and each.state is VmmState.RUNNING for each in seen):
                violations.append(f"two copies of {name} run: {seen}")
            await asyncio.sleep(POLL_S)

    async def look(self, host: str, name: str) -> VmmStatus | None:
        """What the VMM of a machine on a host says; None if it is dead or does not answer."""
        vmm = await self.operations.hypervisor(host).find(name)
        if vmm is None:
            return None
        try:
            async with asyncio.timeout(0.5):
                return await vmm.status()
        except (GodwitError, TimeoutError):
            return None
        finally:
            vmm.close()

    # Steps and processes.

    def plan(self, host: str, step: Step) -> Callable[[], bool]:
        """Stop the service at ``step`` that takes it, of ``host`` if it is a host's; what is
        returned says whether it has.
        """
        assert self.subject is not None
        plan = self._plan_path(host, step.role)
        reached = plan.with_suffix(".reached")
        reached.unlink(missing_ok=True)
        wanted = {"machine": self.subject.name, "step": step.name, "former": self.subject.former}
        written = plan.with_suffix(".new")
        written.write_text(json.dumps(wanted))
        written.rename(plan)
        service = self.service(host, step.role)
        return lambda: reached.exists() and is_stopped(self.pid(service))

    def unplan(self) -> None:
        """No service stops anywhere any more."""
        for host in HOSTS:
            for role in Role:
                self._plan_path(host, role).unlink(missing_ok=True)

    def _plan_path(self, host: str, role: Role) -> Path:
        environ = self.cluster.environ()
        ids = {
            Role.COORDINATOR: environ["GODWIT_COORDINATOR_ID"],
            Role.TRACKER: environ["GODWIT_TRACKER_ID"],
        }
        return plan_path(self.cluster.directory, ids.get(role, host), role)

    def service(self, host: str, role: Role) -> str:
        """The name of a service, which ``pid`` takes; ``host`` only matters if it is a host's."""
        return f"{host}-{role}" if role in HOST_ROLES else str(role)

    async def cancel(self, migration: str) -> None:
        """An operator asks for the migration's end, and does not wait for it."""
        assert self.subject is not None
        scope = Scope.of_migration(migration, self.subject.name)
        await append_as_operator(self.operations.log, scope, ev.CancelRequested(), once=True)

    def machine_folder(self, host: str) -> MachineFolder:
        """Where the machine's files on a host are, if there are any."""
        assert self.subject is not None
        return MachineFolder.of(self.cluster.directory / "hosts" / host, self.subject.name)

    def vmm_pid(self, host: str) -> int | None:
        """The process id of the machine's VMM on a host, if it lives."""
        folder = self.machine_folder(host)
        try:
            return int(folder.pid.read_text()) if folder.is_locked() else None
        except (FileNotFoundError, ValueError):
            return None


async def _start_servers(
    stack: AsyncExitStack, place: Path, setting: Setting
) -> NatsServer | NatsCluster:
    if setting is Setting.THREE_SERVERS:
        return await stack.enter_async_context(NatsCluster.start(place))
    server = await NatsServer.start(place)
    stack.push_async_callback(server.stop)
    return server


async def _start_cluster(directory: Path, nats_url: str, setting: Setting) -> Cluster:
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    places = dict.fromkeys([str(Path(__file__).parent), *filter(None, given)])
    replicas = SERVERS if setting is Setting.THREE_SERVERS else 1
    return await Cluster.start(
        directory,
        hosts=len(HOSTS),
        gpus="H100-80GB:1",
        nats_url=nats_url,
        launch_through=("run_service",),
        environ={"PYTHONPATH": os.pathsep.join(places), "GODWIT_NATS_REPLICAS": str(replicas)},
    )


async def until(is_so: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Wait until something is so. Raises ``ViolatedError``."""
    try:
        async with asyncio.timeout(timeout_s):
            while not is_so():  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise ViolatedError(f"{what} not within {timeout_s:g} s") from None


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
