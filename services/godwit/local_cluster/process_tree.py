"""The processes of a local cluster, also those that outlived whoever started them.

Every process that a cluster starts inherits a variable with the cluster's directory, whatever
starts it in turn. So all are found in /proc: those of a cluster that was killed too. Linux only.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

MARK_VARIABLE: Final = "GODWIT_CLUSTER"
VMM_MODULE: Final = b"godwit.hypervisor.native.vmm"
TERMINATE_S_MAX: Final = 5.0
KILL_S_MAX: Final = 5.0
_POLL_S: Final = 0.02
_PR_SET_CHILD_SUBREAPER: Final = 36


def adopt_orphans() -> None:
    """Let the orphans among our descendants become our children, so that we can reap them."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def mark(directory: Path) -> str:
    """The value of ``MARK_VARIABLE`` for a cluster in ``directory``."""
    return str(directory.resolve())


def find_processes(directory: Path) -> list[int]:
    """Ids of the living processes that the cluster in ``directory`` has started."""
    wanted = f"{MARK_VARIABLE}={mark(directory)}".encode()
    return [pid for pid in _all_pids() if wanted in _read(pid, "environ").split(b"\0")]


def find_services(directory: Path) -> list[int]:
    """As ``find_processes``, with the event log's server and without those that hold a machine."""
    services = [pid for pid in find_processes(directory) if VMM_MODULE not in _arguments(pid)]
    # The server was started with the environment of the command, so that it has no mark.
    files = f"{directory.resolve()}/".encode()
    servers = [pid for pid in _all_pids() if _is_server(_arguments(pid), files)]
    return sorted({*services, *servers})


async def end_all(pids: Iterable[int]) -> None:
    """SIGTERM to each, SIGKILL to what is left after ``TERMINATE_S_MAX``; reap our children."""
    left = await _signal_and_wait(pids, signal.SIGTERM, TERMINATE_S_MAX)
    if left:
        await _signal_and_wait(left, signal.SIGKILL, KILL_S_MAX)


async def _signal_and_wait(pids: Iterable[int], number: int, wait_s: float) -> list[int]:
    """Return those that live on."""
    left = [pid for pid in pids if _send(pid, number)]
    deadline = asyncio.get_running_loop().time() + wait_s
    while left and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(_POLL_S)
        left = [pid for pid in left if _lives(pid)]
    return left


def _send(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
        # One that is stopped could not even begin to end.
        os.kill(pid, signal.SIGCONT)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _lives(pid: int) -> bool:
    with suppress(ChildProcessError):
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return False
    state = _read(pid, "stat").rpartition(b")")[2].split()
    return bool(state) and state[0] not in {b"Z", b"X"}


def _all_pids() -> list[int]:
    own = os.getpid()
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208
    return [pid for pid in pids if pid != own]


def _is_server(arguments: list[bytes], files: bytes) -> bool:
    return arguments[0].endswith(b"nats-server") and any(
        argument.startswith(files) for argument in arguments
    )


def _arguments(pid: int) -> list[bytes]:
    return _read(pid, "cmdline").split(b"\0")


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
