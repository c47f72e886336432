"""The launcher: a tiny process a host that starts VMMs (``python -m godwit.hypervisor.native``).

VMMs are its children, not the host services': those may crash and restart, also in containers. When
it ends itself, the VMMs go on. It imports next to nothing, and knows nothing of what a VMM does.

The lock on a machine's pid file is inherited by its VMM, and so tells whether that lives, whatever
files were left behind. Both write which process it is into that file, for either may die before it
gets there. The socket is made here: a client can connect before the VMM is up.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from godwit_protocol.errors import (
    ConflictError,
    GodwitError,
    InvalidInputError,
    RefusedError,
    RemoteProtocolError,
)
from godwit_protocol.subjects import checked_name

from . import wire
from .paths import LAUNCHER_LOCK, LAUNCHER_SOCKET, MachineFolder
from .server import ControlServer

HOST_DIR_VARIABLE: Final = "GODWIT_HOST_DIR"
FOLDER_TRIES_MAX: Final = 10
VMM_MODULE: Final = "godwit.hypervisor.native.vmm"

_log = logging.getLogger("godwit.launcher")
_orders: msgspec.msgpack.Decoder[wire.Spawn] = msgspec.msgpack.Decoder(wire.Spawn)


class Launcher:
    """Serves ``Spawn`` in a host's directory, which it locks: there is one launcher a host."""

    def __init__(self, host_dir: Path) -> None:
        """Raises ``ConflictError`` if another launcher serves ``host_dir``."""
        host_dir.mkdir(parents=True, exist_ok=True)
        self._host_dir = host_dir.resolve()
        self._lock = _lock(host_dir / LAUNCHER_LOCK, f"a launcher already serves {host_dir}")
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = False
        # Before anybody can connect: who sees the launcher may end it.
        self._signals = _catch_signals()
        path = host_dir / LAUNCHER_SOCKET
        path.unlink(missing_ok=True)
        self._server = ControlServer(wire.listen(path), self._answer)
        self._server.watch(self._signals.fileno(), self._take_signals)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        while not self._stopping:
            self._server.poll(None)

    def _take_signals(self) -> None:
        numbers = self._signals.recv(64)
        for name, child in list(self._children.items()):
            if child.poll() is not None:
                _log.info("the VMM of %s ended with status %d", name, child.returncode)
                del self._children[name]
        self._stopping = self._stopping or signal.SIGTERM in numbers or signal.SIGINT in numbers

    def _answer(self, body: bytes) -> tuple[wire.Message, Sequence[int]]:
        try:
            order = _orders.decode(body)
        except msgspec.DecodeError as error:
            raise RemoteProtocolError(f"an order that cannot be read: {error}") from error
        try:
            self._spawn(order)
        except GodwitError as error:
            return wire.failed(error), ()
        except OSError as error:
            return wire.failed(RefusedError(f"no VMM can be started: {error}")), ()
        return wire.Done(), ()

    def _spawn(self, order: wire.Spawn) -> None:
        spec = order.spec.checked()
        folder = MachineFolder.of(self._host_dir, checked_name(spec.name, "machine"))
        lock = _lock_folder(folder, f"machine {spec.name} exists on this host")
        try:
            os.truncate(lock, 0)  # a former VMM's number may be another process's by now
            folder.socket.unlink(missing_ok=True)
            folder.order.write_bytes(msgspec.msgpack.encode(order))
            with wire.listen(folder.socket) as listener:
                child = _start_vmm(folder, spec.env, listener.fileno(), lock)
            os.pwrite(lock, str(child.pid).encode(), 0)
        finally:
            os.close(lock)
        self._children[spec.name] = child
        _log.info("started the VMM of %s as process %d", spec.name, child.pid)


def _catch_signals() -> socket.socket:
    """Return a socket that gives the number of each signal as it comes."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return reader


def _lock(path: Path, conflict: str) -> int:
    """Return a descriptor that holds the lock on ``path``. Raises ``ConflictError``."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ConflictError(conflict) from error
    return lock


def _lock_folder(folder: MachineFolder, conflict: str) -> int:
    """Make the folder, and return as ``_lock``. One that is just being removed is made anew."""
    for _ in range(FOLDER_TRIES_MAX):
        folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(FileNotFoundError):
            lock = _lock(folder.pid, conflict)
            if os.fstat(lock).st_nlink:
                return lock
            os.close(lock)
    raise ConflictError(conflict, hint="somebody removes its files again and again")


def _start_vmm(
    folder: MachineFolder, env: dict[str, str], listener: int, lock: int
) -> subprocess.Popen[bytes]:
    with folder.log.open("ab") as log:
        # -P: nothing in the working directory is imported by mistake.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", VMM_MODULE, str(folder.path), str(listener), str(lock)],
            cwd=folder.path,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(listener, lock),
            start_new_session=True,
        )


def main() -> None:
    """Serve the host directory named by ``GODWIT_HOST_DIR``."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level="INFO")
    try:
        host_dir = os.environ.get(HOST_DIR_VARIABLE)
        if not host_dir:
            raise InvalidInputError(f"{HOST_DIR_VARIABLE} is not set")
        Launcher(Path(host_dir)).run()
    except GodwitError as error:
        _log.error("%s", error)
        sys.exit(error.exit_code)
