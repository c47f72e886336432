"""The newest that a host's services have seen of each machine's register, kept on the host's disk.

It outlives them: a register that shows less has gone backwards. A mark may be lost, or an older one
come back, with a loss of power; then less is noticed, and nothing wrong is done.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from godwit_protocol.errors import CorruptError
from godwit_protocol.register import NO_REGISTER, RegisterView, decode_view, encode_view


class Marks(Protocol):
    """One mark a machine."""

    def read(self, machine: str) -> RegisterView:
        """The newest that was seen of a machine's register."""

    def write(self, machine: str, seen: RegisterView) -> None:
        """Replace it. Raises ``OSError``: the older one stays."""


class MemoryMarks:
    """Marks of a process, forgotten with it."""

    def __init__(self) -> None:
        self._marks: dict[str, RegisterView] = {}

    def read(self, machine: str) -> RegisterView:
        """As ``Marks.read``."""
        return self._marks.get(machine, NO_REGISTER)

    def write(self, machine: str, seen: RegisterView) -> None:
        """As ``Marks.write``."""
        self._marks[machine] = seen


class MarkFiles:
    """Marks as small files of one directory, which the services of a host share."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, machine: str) -> RegisterView:
        """As ``Marks.read``."""
        try:
            return decode_view((self._directory / machine).read_bytes())
        except (FileNotFoundError, CorruptError):
            return NO_REGISTER

    def write(self, machine: str, seen: RegisterView) -> None:
        """As ``Marks.write``: replaced atomically, not flushed."""
        fresh = self._directory / f".{machine}.{os.getpid()}"
        fresh.write_bytes(encode_view(seen))
        os.replace(fresh, self._directory / machine)  # noqa: PTH105  # atomic, and says so
