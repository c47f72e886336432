"""One process of a local cluster: started, waited for until it is ready, restarted when it dies.

Knows processes, files and the health endpoint; not what a service does.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from godwit_protocol.errors import ConflictError, DeadlineError, UnreachableError

READY_S_MAX: Final = 30.0
ANSWER_S_MAX: Final = 2.0
STOP_S_MAX: Final = 12.0
"""Longer than a service gives itself to end in an orderly way."""
RESTARTS_IN_A_ROW_MAX: Final = 10
RESTART_WAIT_S_MIN: Final = 0.2
RESTART_WAIT_S_MAX: Final = 10.0
STEADY_S: Final = 30.0
"""Up for so long, a process has recovered: its next restart is the first in a row again."""
_POLL_S: Final = 0.02
_LOG_TAIL_LINES: Final = 12

Report = Callable[[str], None]
"""Takes one line for the person who runs the cluster."""
IsReady = Callable[[int], Awaitable[bool]]
"""Given the process id, says whether the process does its work yet."""


@dataclass(frozen=True, slots=True)
class Program:
    """``module``, with arguments, is run as ``python -m``; its output goes to ``log``."""

    name: str
    module: Sequence[str]
    environ: Mapping[str, str]
    log: Path
    is_ready: IsReady


def answers_healthy(address_file: Path) -> IsReady:
    """Ready once the health endpoint that ``address_file`` names is the process's and is well."""

    async def is_ready(pid: int) -> bool:
        try:
            address = _read_address(address_file)
            return address["pid"] == pid and await _is_well(address["host"], address["port"])
        except (OSError, ValueError, TimeoutError, EOFError):
            return False

    return is_ready


def _read_address(address_file: Path) -> dict[str, Any]:
    address: dict[str, Any] = json.loads(address_file.read_bytes())
    return address


def accepts_on(socket_path: Path) -> IsReady:
    """Ready once something listens on the Unix socket, however deep its folder is."""

    async def is_ready(_pid: int) -> bool:
        from godwit.hypervisor.native import wire

        try:
            wire.connect(socket_path).close()
        except UnreachableError:
            return False
        except DeadlineError:
            pass  # it is busy, and listens
        return True

    return is_ready


async def _is_well(host: str, port: int) -> bool:
    async with asyncio.timeout(ANSWER_S_MAX):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: godwit\r\n\r\n")
            return b" 200 " in await reader.readline()
        finally:
            writer.close()


class Supervised:
    """A program that is to run. ``held_down`` while somebody wants it not to."""

    def __init__(self, program: Program, report: Report) -> None:
        self.program = program
        self._report = report
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._held_down = asyncio.Event()

    @property
    def pid(self) -> int:
        """The process id. Raises ``UnreachableError`` while it is down."""
        if self._process is None or self._process.returncode is not None:
            raise UnreachableError(f"{self.program.name} is not running")
        return self._process.pid

    async def start(self) -> None:
        """Start it and return when it is ready; from then on it is restarted when it dies.

        Raises ``UnreachableError`` if it ends at once, ``DeadlineError`` if it is not ready in
        time; both with its last log lines.
        """
        if self._watcher is not None and not self._watcher.done():
            raise ConflictError(f"{self.program.name} is running already")
        self._held_down.clear()
        process = await self._spawn()
        await self._wait_ready(process)
        self._watcher = asyncio.create_task(self._watch(process))

    async def signal(self, number: int) -> None:
        """Send a signal. After SIGKILL or SIGTERM it has ended, and stays down until ``start``."""
        ends = number in {signal.SIGKILL, signal.SIGTERM}
        if ends:
            self._held_down.set()
        self._send(number)
        if ends:
            await self._wait_ended()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL after ``STOP_S_MAX``. Idempotent."""
        try:
            self._held_down.set()
            self._send(signal.SIGTERM)
            # One that is stopped could not even begin to end.
            self._send(signal.SIGCONT)
            await self._wait_ended()
        except DeadlineError:
            await self.signal(signal.SIGKILL)

    def log_tail(self) -> str:
        """The last lines that it wrote."""
        try:
            lines = self.program.log.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        told = "\n".join(f"  | {line}" for line in lines[-_LOG_TAIL_LINES:])
        return told or f"it wrote nothing to {self.program.log}"

    def _send(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _wait_ended(self) -> None:
        """Wait until it is down and nobody will restart it. Raises ``DeadlineError``."""
        try:
            async with asyncio.timeout(STOP_S_MAX):
                if self._process is not None:
                    await self._process.wait()
                if self._watcher is not None:
                    await asyncio.wait({self._watcher})
        except TimeoutError as error:
            raise DeadlineError(
                f"{self.program.name} did not end within {STOP_S_MAX:g} s"
            ) from error

    async def _spawn(self) -> asyncio.subprocess.Process:
        with self.program.log.open("ab") as log:
            # -P: nothing in the working directory is imported by mistake.
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                *self.program.module,
                env=self.program.environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in the terminal is for the cluster, which then stops them in order.
                start_new_session=True,
            )
        return self._process

    async def _wait_ready(self, process: asyncio.subprocess.Process) -> None:
        try:
            async with asyncio.timeout(READY_S_MAX):
                while not await self.program.is_ready(process.pid):
                    if process.returncode is not None:
                        raise UnreachableError(
                            f"{self.program.name} ended with status {process.returncode}"
                            f" at its start",
                            hint=self.log_tail(),
                        )
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise DeadlineError(
                f"{self.program.name} was not ready within {READY_S_MAX:g} s", hint=self.log_tail()
            ) from error

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Restart it when it dies by itself, waiting longer each time; at last, give up loudly."""
        loop = asyncio.get_running_loop()
        name, restarts, started = self.program.name, 0, loop.time()
        while True:
            status = await process.wait()
            restarts = 0 if loop.time() - started > STEADY_S else restarts
            wait_s = min(RESTART_WAIT_S_MIN * 2**restarts, RESTART_WAIT_S_MAX)
            if self._held_down.is_set():
                return
            if restarts == RESTARTS_IN_A_ROW_MAX:
                self._report(f"{name} ended {restarts} times in a row and is left down")
                return
            self._report(f"{name} ended with status {status}; restarting it in {wait_s:g} s")
            if await self._is_held_down_within(wait_s):
                return
            restarts, started = restarts + 1, loop.time()
            process = await self._spawn()
            await self._report_when_ready(process)

    async def _is_held_down_within(self, wait_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._held_down.wait()
        return self._held_down.is_set()

    async def _report_when_ready(self, process: asyncio.subprocess.Process) -> None:
        if self._held_down.is_set():
            self._send(signal.SIGTERM)
            return
        try:
            await self._wait_ready(process)
        except UnreachableError:
            return
        except DeadlineError as error:
            self._report(error.message)
            return
        self._report(f"{self.program.name} is back")
