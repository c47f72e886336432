"""What the kernel says of a process: whether it is stopped, and what it holds."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped it."""
    return _state(pid) == "T"


def is_dead(pid: int) -> bool:
    """Whether it has ended, though perhaps nobody has reaped it yet."""
    return _state(pid) in {"", "Z", "X"}


def memfds(pid: int) -> list[str]:
    """The memory files that it holds open, by name."""
    return [held for held in _held(pid) if held.startswith("/memfd:")]


def sockets(pid: int) -> int:
    """How many sockets it holds open."""
    return sum(held.startswith("socket:") for held in _held(pid))


def _held(pid: int) -> list[str]:
    found = []
    with suppress(FileNotFoundError):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found.append(str(fd.readlink()))
    return found


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
