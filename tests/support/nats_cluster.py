"""Three nats-servers that keep each message three times, and which of them leads a stream."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from godwit.runtime.nats_server import MAX_PAYLOAD_BYTES, find_binary

SERVERS: Final = 3
READY_S_MAX: Final = 30.0
POLL_S: Final = 0.05


class NatsCluster:
    """Servers on loopback. Make one with ``start``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ports = [[free_port() for _ in range(SERVERS)] for _ in range(3)]
        self._processes: dict[int, asyncio.subprocess.Process] = {}

    @classmethod
    @asynccontextmanager
    async def start(cls, directory: Path) -> AsyncIterator[NatsCluster]:
        """Start all three, and return when JetStream has a leader."""
        cluster = cls(directory)
        try:
            for number in range(SERVERS):
                await cluster.start_server(number)
            async with asyncio.timeout(READY_S_MAX):
                while not await cluster._has_leader():  # noqa: ASYNC110
                    await asyncio.sleep(POLL_S)
            yield cluster
        finally:
            for number in tuple(cluster._processes):
                await cluster.kill(number)

    @property
    def url(self) -> str:
        """Where clients connect: all servers, with commas between."""
        return ",".join(map(self.url_of, range(SERVERS)))

    async def start_server(self, number: int) -> None:
        """Start one, on its own files."""
        place = self._directory / f"server-{number}"
        place.mkdir(parents=True, exist_ok=True)
        client, route, monitor = (ports[number] for ports in self._ports)
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in self._ports[1])
        config = place / "nats.conf"
        config.write_text(
            f"server_name: server-{number}\nhost: 127.0.0.1\nport: {client}\n"
            f"http: 127.0.0.1:{monitor}\nmax_payload: {MAX_PAYLOAD_BYTES}\n"
            f'log_file: "{place}/nats.log"\n'
            f'jetstream {{ store_dir: "{place}/jetstream", sync_interval: always }}\n'
            f"cluster {{ name: chaos, listen: 127.0.0.1:{route}, routes: [{routes}] }}\n"
        )
        self._processes[number] = await asyncio.create_subprocess_exec(find_binary(), "-c", config)

    def url_of(self, number: int) -> str:
        """Where clients connect to one."""
        return f"nats://127.0.0.1:{self._ports[0][number]}"

    async def kill(self, number: int) -> None:
        """SIGKILL one."""
        process = self._processes.pop(number)
        process.send_signal(signal.SIGKILL)
        await process.wait()

    def freeze(self, number: int) -> None:
        """SIGSTOP one."""
        self._processes[number].send_signal(signal.SIGSTOP)

    def thaw(self, number: int) -> None:
        """Let it go on."""
        self._processes[number].send_signal(signal.SIGCONT)

    async def leader_of(self, stream: str) -> int:
        """The number of the living server that leads a stream, as soon as one does."""
        async with asyncio.timeout(READY_S_MAX):
            while True:
                for number in tuple(self._processes):
                    if await self._leader_by(number, stream) == number:
                        return number
                await asyncio.sleep(POLL_S)

    async def all_current(self) -> None:
        """Wait until every server holds what the others do."""
        async with asyncio.timeout(READY_S_MAX):
            for number in tuple(self._processes):
                while not await self._is_well(number):  # noqa: ASYNC110
                    await asyncio.sleep(POLL_S)

    async def _leader_by(self, number: int, stream: str) -> int | None:
        """Who leads a stream, as a server has it."""
        for account in (await self._ask(number, "jsz?streams=1")).get("account_details", ()):
            for detail in account["stream_detail"]:
                leader = detail.get("cluster", {}).get("leader", "")
                if detail["name"] == stream and leader:
                    return int(leader.removeprefix("server-"))
        return None

    async def _is_well(self, number: int) -> bool:
        try:
            return bool((await self._ask(number, "healthz"))["status"] == "ok")
        except OSError:
            return False

    async def _has_leader(self) -> bool:
        try:
            return bool((await self._ask(0, "jsz"))["meta_cluster"]["leader"])
        except (OSError, KeyError):
            return False

    async def _ask(self, number: int, what: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self._ports[2][number]}/{what}"
        return await asyncio.to_thread(_get, url)


def _get(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=5) as answer:
        found = json.loads(answer.read())
    assert isinstance(found, dict)
    return found


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])
