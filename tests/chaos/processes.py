"""What the kernel says of a process: whether it is stopped, and what it holds."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped it."""
    return _state(pid)[0] == "T"


def is_dead(pid: int) -> bool:
    """Whether it has ended, though perhaps nobody has reaped it yet. A thread that is still to end
    keeps its memory, which may be read meanwhile.
    """
    state, threads = _state(pid)
    return state in {"", "Z", "X"} and threads <= 1


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


def _state(pid: int) -> tuple[str, int]:
    """Its main thread's state, and how many threads there are."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    return fields[0], int(fields[17])
