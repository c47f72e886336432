"""A local cluster of real processes: the event log, all services, and hosts with simulated GPUs.

Used by ``godwit up``, ``godwit demo`` and the end-to-end tests. Ends with everything that it has
started, also the machines, whose VMMs outlive their hosts' services by design.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import sys
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from godwit_protocol.errors import (
    ConflictError,
    DeadlineError,
    GodwitError,
    InvalidInputError,
    NotFoundError,
    UnreachableError,
)

from . import CLUSTER_FILE, process_tree
from .supervised import (
    RESTART_WAIT_S_MIN,
    RESTARTS_IN_A_ROW_MAX,
    STEADY_S,
    Program,
    Report,
    Supervised,
    accepts_on,
    answers_healthy,
)

if TYPE_CHECKING:
    from types import TracebackType

    from godwit.runtime.nats_server import NatsServer

HOSTS_MAX: Final = 64
DEFAULT_GPUS: Final = "H100-80GB:2"
PROVISION_S_MAX: Final = 30.0
LOCK_FILE: Final = "cluster.lock"
CLUSTER_SERVICES: Final = ("coordinator", "gpu_state_tracker")
HOST_SERVICES: Final = ("source_host", "destination_host")
LAUNCHER: Final = "launcher"
MONITOR: Final = "monitor"
_SERVICE_IDS: Final = {"coordinator": "coordinator-1", "gpu_state_tracker": "tracker-1"}


class Cluster:
    """A running cluster. Make one with ``start``, end it with ``stop`` or as a context manager."""

    def __init__(
        self,
        directory: Path,
        hosts: Iterable[str],
        gpus: str,
        report: Report,
        launch_through: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        monitor: bool = False,
    ) -> None:
        self.directory = directory.absolute()
        self.hosts = tuple(hosts)
        self.nats_url = ""
        self.watch_url = ""
        """Where those connect who shall only watch; nothing with a server that ran already."""
        self._gpus = gpus
        self._report = report
        self._launch_through = tuple(launch_through)
        self._environ = dict(environ or {})
        self._has_monitor = monitor
        self._lock = -1
        self._nats: NatsServer | None = None
        self._nats_watcher: asyncio.Task[None] | None = None
        self._services: dict[str, Supervised] = {}

    @classmethod
    async def start(
        cls,
        directory: Path,
        *,
        hosts: int = 2,
        gpus: str = DEFAULT_GPUS,
        nats_url: str | None = None,
        report: Report = lambda _: None,
        launch_through: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        monitor: bool = False,
    ) -> Self:
        """Start all of it in ``directory`` and return when every service is ready.

        ``gpus`` as GODWIT_GPUS, the same for each host; ``nats_url`` uses a server that runs
        already. ``report`` is told when a service dies later, and is restarted. With
        ``launch_through``, a module with arguments, each service is run by that module (a profiler,
        a test's launcher), which is given the service's as its last argument. ``environ`` is added
        to the environment of every process. ``monitor``: its page is served, too. Raises
        ``ConflictError`` if a cluster runs in ``directory``, ``InvalidInputError``, and
        ``UnreachableError`` or ``DeadlineError`` naming the service that did not come up.
        """
        if not 1 <= hosts <= HOSTS_MAX:
            raise InvalidInputError(f"{hosts} hosts", hint=f"give 1 to {HOSTS_MAX}")
        names = (f"host-{number}" for number in range(1, hosts + 1))
        cluster = cls(directory, names, gpus, report, launch_through, environ, monitor)
        try:
            await cluster._start(nats_url)
        except BaseException:
            await cluster.stop()
            raise
        return cluster

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def services(self) -> tuple[str, ...]:
        """Names of the supervised processes, such as ``coordinator`` or ``host-1-source_host``."""
        return tuple(self._services)

    @property
    def page_url(self) -> str:
        """Where the monitor's page is; nothing if there is none."""
        told = self.directory / "services" / MONITOR / "page.json"
        return str(json.loads(told.read_bytes())["url"]) if self._has_monitor else ""

    def pid(self, service: str) -> int:
        """The process id of a service. Raises ``NotFoundError``, ``UnreachableError`` if down."""
        return self._service(service).pid

    def environ(self, host: str = "") -> dict[str, str]:
        """The environment of the cluster's services, or of those of ``host``."""
        ours = {
            process_tree.MARK_VARIABLE: process_tree.mark(self.directory),
            "GODWIT_NATS_URL": self.nats_url,
            "GODWIT_DIR": str(self.directory),
            "GODWIT_COORDINATOR_ID": _SERVICE_IDS["coordinator"],
            "GODWIT_TRACKER_ID": _SERVICE_IDS["gpu_state_tracker"],
            "GODWIT_HEALTH_HOST": "127.0.0.1",
            "GODWIT_HEALTH_PORT": "0",
            "GODWIT_MONITOR_PORT": "0",
            "GODWIT_LINK_PORT": "0",
        }
        if host:
            ours["GODWIT_HOST"] = host
            ours["GODWIT_HOST_DIR"] = str(self.directory / "hosts" / host)
            ours["GODWIT_GPUS"] = self._gpus
            # Its hosts share one computer: they cannot each have its GPUs.
            ours["GODWIT_GPU_ORIGIN"] = "simulated"
        return {**os.environ, "GODWIT_LINK_HOST": "127.0.0.1", **self._environ, **ours}

    async def kill(self, service: str, number: int = signal.SIGKILL) -> None:
        """Send a signal; after SIGKILL and SIGTERM the service is down until ``restart``."""
        await self._service(service).signal(number)

    async def restart(self, service: str) -> None:
        """Stop the service if it runs, start it, and return when it is ready."""
        supervised = self._service(service)
        await supervised.stop()
        await supervised.start()

    async def stop(self) -> None:
        """End everything: services, launchers, machines, the event log. Idempotent, bounded."""
        if self._lock < 0:
            return
        (self.directory / CLUSTER_FILE).unlink(missing_ok=True)
        await asyncio.gather(*(service.stop() for service in self._services.values()))
        await process_tree.end_all(process_tree.find_processes(self.directory))
        if self._nats_watcher is not None:
            self._nats_watcher.cancel()
            await asyncio.wait({self._nats_watcher})
        if self._nats is not None:
            await self._nats.stop()
        os.close(self._lock)
        self._lock = -1

    async def _start(self, nats_url: str | None) -> None:
        self._take_directory()
        process_tree.adopt_orphans()
        await self._end_leftovers()
        self.nats_url = nats_url or await self._start_nats()
        for program in self._programs():
            self._services[program.name] = Supervised(program, self._report)
        launchers = [s for name, s in self._services.items() if name.endswith(LAUNCHER)]
        others = [s for name, s in self._services.items() if not name.endswith(LAUNCHER)]
        await _all_of(self._provision(), *(launcher.start() for launcher in launchers))
        await _all_of(*(service.start() for service in others))
        self._write_description()

    def _take_directory(self) -> None:
        lock_file = self.directory / LOCK_FILE
        try:
            for name in ("logs", *(f"hosts/{host}" for host in self.hosts)):
                (self.directory / name).mkdir(parents=True, exist_ok=True)
            lock = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InvalidInputError(
                f"no cluster can be in {self.directory}: {error}",
                hint="give a directory that you may write to, with --dir",
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise ConflictError(
                f"a cluster already runs in {self.directory}",
                hint="stop it, or give another directory with --dir",
            ) from error
        self._lock = lock

    async def _end_leftovers(self) -> None:
        """Of a cluster that was killed: end its services, and keep its machines, which run on."""
        leftovers = process_tree.find_services(self.directory)
        if leftovers:
            self._report(f"ending {len(leftovers)} processes of an earlier cluster that was killed")
            await process_tree.end_all(leftovers)

    async def _start_nats(self) -> str:
        from godwit.runtime.nats_server import ANY_PORT, NatsServer

        place, port = self.directory / "nats", self._earlier_port()
        try:
            self._nats = await NatsServer.start(place, port=port or ANY_PORT, with_users=True)
        except UnreachableError:
            if not port:
                raise
            self._nats = await NatsServer.start(place, with_users=True)
            self._report(
                f"the event log could not start on port {port}, where it was before: machines that"
                f" an earlier cluster left cannot reach it; stop them, and start them anew"
            )
        self._nats_watcher = asyncio.create_task(self._watch_nats(self._nats))
        self.watch_url = self._nats.watch_url
        return self._nats.url

    def _earlier_port(self) -> int | None:
        """Where the event log of a cluster that was killed was: its machines look for it there."""
        from godwit.runtime.nats_server import LOOPBACK

        with suppress(OSError, ValueError, KeyError, TypeError):
            described = json.loads((self.directory / CLUSTER_FILE).read_bytes())
            url = urlsplit(str(described["nats_url"]))
            return url.port if url.hostname == LOOPBACK else None
        return None

    async def _watch_nats(self, server: NatsServer) -> None:
        """Restart the event log's server when it dies: on the same port, with all that it holds."""
        loop = asyncio.get_running_loop()
        restarts, started = 0, loop.time()
        while True:
            status = await server.wait()
            restarts = 0 if loop.time() - started > STEADY_S else restarts
            if restarts == RESTARTS_IN_A_ROW_MAX:
                self._report(f"the event log ended {restarts} times in a row and is left down")
                return
            self._report(f"the event log ended with status {status}; restarting it")
            await asyncio.sleep(RESTART_WAIT_S_MIN)
            try:
                await server.restart()
            except GodwitError as error:
                self._report(f"the event log cannot be restarted: {error.message}")
                return
            restarts, started = restarts + 1, loop.time()

    async def _provision(self) -> None:
        path = self.directory / "logs" / "provision.log"
        with path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "godwit.runtime.provision",
                env=self.environ(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(PROVISION_S_MAX):
                status = await process.wait()
        except TimeoutError as error:
            process.kill()
            raise DeadlineError("provision did not end in time", hint=f"see {path}") from error
        if status:
            last = path.read_text(errors="replace").splitlines()[-3:]
            raise UnreachableError(f"provision ended with status {status}", hint="\n".join(last))

    def _programs(self) -> Iterable[Program]:
        for service in CLUSTER_SERVICES:
            place = self.directory / "services" / service / _SERVICE_IDS[service]
            yield self._program(service, f"godwit.{service}", place, self.environ())
        if self._has_monitor:
            place = self.directory / "services" / MONITOR
            watching = {**self.environ(), "GODWIT_NATS_URL": self.watch_url or self.nats_url}
            yield self._program(MONITOR, f"godwit.{MONITOR}", place, watching)
        for host in self.hosts:
            place = self.directory / "hosts" / host
            environ = self.environ(host)
            yield Program(
                f"{host}-{LAUNCHER}",
                ("godwit.hypervisor.native",),
                environ,
                self.directory / "logs" / f"{host}-{LAUNCHER}.log",
                accepts_on(place / "launcher.sock"),
            )
            for service in HOST_SERVICES:
                name = f"{host}-{service}"
                yield self._program(name, f"godwit.{service}", place / service, environ)

    def _program(self, name: str, module: str, place: Path, environ: dict[str, str]) -> Program:
        log = self.directory / "logs" / f"{name}.log"
        launched = (*self._launch_through, module)
        return Program(name, launched, environ, log, answers_healthy(place / "health.json"))

    def _write_description(self) -> None:
        """Whole or not at all: other commands may look at any time. Nobody else may: the URL may
        hold a password.
        """
        described = {"nats_url": self.nats_url, "pid": os.getpid(), "hosts": self.hosts}
        partial = self.directory / f".{CLUSTER_FILE}"
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(described), encoding="utf-8")
        partial.replace(self.directory / CLUSTER_FILE)

    def _service(self, name: str) -> Supervised:
        found = self._services.get(name)
        if found is None:
            raise NotFoundError(
                f"the cluster has no service {name!r}", hint=f"one of: {', '.join(self._services)}"
            )
        return found


async def _all_of(*works: Coroutine[Any, Any, None]) -> None:
    """Await all at once; the first failure cancels the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for work in works:
                tasks.create_task(work)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
