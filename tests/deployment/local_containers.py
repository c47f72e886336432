"""Runs the services of ``docker-compose.yml`` as local processes, each with its own command.

It stands in for a container runtime and for nothing else. What a runtime gives, it gives: an
address for each container, names that resolve, volumes, the image's interpreter and variables, the
order of dependencies, health checks, and the end of what shares a host's process namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import socket
import sys
import urllib.request
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from pathlib import Path
from types import TracebackType
from typing import Self

import dockerfile
from compose_file import ROOT, ComposeService, Condition

from godwit.runtime.nats_server import find_binary

HEALTHY_S_MAX = 30.0
CHECK_EVERY_S = 0.2
ENDS_S_MAX = 30.0
COMMAND_S_MAX = 60.0
LOOPBACK = "127.0.0.1"
ANY = "0.0.0.0"
LINK_HOST = "GODWIT_LINK_HOST"
PORTS = ("4222", "8222", "8080")


class LocalContainers:
    """The services of one compose file under ``directory``. A context manager."""

    def __init__(self, services: dict[str, ComposeService], directory: Path) -> None:
        self._services = services
        self._directory = directory
        network = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}"
        self._addresses = {name: f"{network}.{n}" for n, name in enumerate(services, start=1)}
        self._ports = {port: str(_free_port()) for port in PORTS}
        self._places = {
            name: self._make_places(service)
            for name, service in services.items()
            if not service.is_observing
        }
        self._processes: dict[str, Process] = {}
        self._reached = {
            (name, condition): asyncio.Event() for name in services for condition in Condition
        }

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(2 * HEALTHY_S_MAX), asyncio.TaskGroup() as tasks:
                for service in self._services.values():
                    if service.is_started:
                        tasks.create_task(self._start_in_order(service))
        except BaseException:
            await self._end_all()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end_all()

    async def start(self, name: str) -> None:
        """Start a service and wait until its own health check succeeds, or its job is done."""
        service = self._services[name]
        process = self._processes[name] = await self._spawn(service)
        if service.is_one_shot:
            async with asyncio.timeout(ENDS_S_MAX):
                assert await process.wait() == 0, self.log_of(name)
            self._reached[name, Condition.ENDED_WELL].set()
        else:
            await self._until_healthy(service)
            self._reached[name, Condition.HEALTHY].set()

    async def stop(self, name: str) -> int:
        """As ``docker compose stop``: SIGTERM. Returns the exit status."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(_seconds(self._services[name].raw["stop_grace_period"])):
            return await process.wait()

    async def is_healthy(self, service: ComposeService) -> bool:
        """What the service's own health check says."""
        if service.health_command[0] == "wget":  # of the NATS image
            return await asyncio.to_thread(
                _answers, self._translate(service, service.health_command[-1])
            )
        check = await asyncio.create_subprocess_exec(
            *self._local_command(service, service.health_command),
            env=self._environment(service),
            stdout=DEVNULL,
            stderr=DEVNULL,
        )
        async with asyncio.timeout(ENDS_S_MAX):
            return await check.wait() == 0

    async def run(self, name: str, *arguments: str) -> str:
        """As ``docker compose run --rm NAME ARGUMENTS``. Returns what it printed."""
        service = self._services[name]
        command = (*service.raw["entrypoint"], *arguments)
        process = await asyncio.create_subprocess_exec(
            *self._local_command(service, command),
            env=self._environment(service),
            stdout=PIPE,
            stderr=STDOUT,
        )
        async with asyncio.timeout(COMMAND_S_MAX):
            output, _ = await process.communicate()
        assert process.returncode == 0, f"{' '.join(arguments)}: {output.decode()}\n{self.logs()}"
        return output.decode()

    def log_of(self, name: str) -> str:
        path = self._directory / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def logs(self) -> str:
        """The end of each service's log, for a failed test."""
        return "\n".join(f"--- {name}\n{self.log_of(name)[-3000:]}" for name in self._services)

    async def _start_in_order(self, service: ComposeService) -> None:
        for other, condition in service.depends_on.items():
            await self._reached[other, condition].wait()
        await self.start(service.name)

    async def _until_healthy(self, service: ComposeService) -> None:
        try:
            async with asyncio.timeout(HEALTHY_S_MAX):
                while not await self.is_healthy(service):
                    assert self._processes[service.name].returncode is None, self.logs()
                    await asyncio.sleep(CHECK_EVERY_S)
        except TimeoutError:
            raise AssertionError(f"{service.name} is not healthy\n{self.logs()}") from None

    async def _spawn(self, service: ComposeService) -> Process:
        with (self._directory / f"{service.name}.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *self._local_command(service, service.command),
                env=self._environment(service),
                cwd=self._directory,
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _local_command(self, service: ComposeService, command: tuple[str, ...]) -> list[str]:
        programs = {
            "python": sys.executable,
            "godwit": str(Path(sys.executable).with_name("godwit")),
            "nats-server": str(find_binary()),
        }
        return [programs[command[0]], *(self._translate(service, word) for word in command[1:])]

    def _environment(self, service: ComposeService) -> dict[str, str]:
        """The image's and the service's variables, and nothing of this process's."""
        image = dockerfile.environment() if service.is_ours else {}
        own = {name: self._translate(service, value) for name, value in service.environment.items()}
        if LINK_HOST in own:
            own[LINK_HOST] = self._addresses[own[LINK_HOST]]
        return {**image, **own, "PATH": str(Path(sys.executable).parent)}

    def _translate(self, service: ComposeService, text: str) -> str:
        """``text`` with the container's addresses, ports and paths made those of this machine."""
        for name, address in self._addresses.items():
            text = re.sub(rf"(//|@){name}:(?=\d)", rf"\g<1>{address}:", text)
        for own in (LOOPBACK, ANY):
            text = text.replace(own, self._addresses[service.name])
        for port, free in self._ports.items():
            text = text.replace(f":{port}", f":{free}") if text != port else free
        for inside, outside in self._places[service.name].items():
            if text.startswith(inside):
                text = str(outside) + text.removeprefix(inside)
        return text

    def _make_places(self, service: ComposeService) -> dict[str, Path]:
        """Where a container's paths are on this machine; directories are made."""
        places = {path: self._directory / service.name / path[1:] for path in service.scratch()}
        for inside, source in service.mounts().items():
            if source.startswith("."):
                places[inside] = self._copied(service, ROOT / source)
            else:
                places[inside] = self._directory / "volumes" / source
                places[inside].mkdir(parents=True, exist_ok=True)
        return places

    def _copied(self, service: ComposeService, file: Path) -> Path:
        """Beside the others: one may include another."""
        text = file.read_text()
        copy = self._directory / file.name
        copy.write_text(self._configured(service, text) if file.name == "nats.conf" else text)
        return copy

    def _configured(self, service: ComposeService, text: str) -> str:
        """The server's configuration, with this machine's addresses, ports and paths."""
        data = self._directory / "volumes" / service.mounts()["/data"]
        for inside, outside in {
            '"0.0.0.0"': f'"{self._addresses[service.name]}"',
            "port: 4222": f"port: {self._ports['4222']}",
            "127.0.0.1:8222": f"{self._addresses[service.name]}:{self._ports['8222']}",
            '"/data"': f'"{data}"',
        }.items():
            assert text.count(inside) == 1, f"nats.conf must have {inside} once"
            text = text.replace(inside, outside)
        return text

    async def _end_all(self) -> None:
        for pid_file in self._directory.glob("volumes/*/machines/*/pid"):
            with contextlib.suppress(ValueError, ProcessLookupError):
                os.kill(int(pid_file.read_text()), signal.SIGKILL)
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _free_port() -> int:
    """Free on every address of this machine."""
    with socket.create_server(("0.0.0.0", 0)) as probe:
        return int(probe.getsockname()[1])


def _seconds(duration: str) -> float:
    assert duration.endswith("s")
    return float(duration.removesuffix("s"))
