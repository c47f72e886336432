"""A disk that can lose its power, under the calls that a journal makes of the operating system.

What a process sees is in real files. Beside them is kept what is durable: the content of each file
and the entries of each directory as they were last synced. Of what came after, a loss of power
leaves of each sector, of each file's length and of each directory any version, independently of one
another; a rename within a directory comes whole or not at all. A file takes room on the disk when
it is synced, and a sync that failed has lost what it was to write, though processes still see it:
so ``fsync(2)`` allows.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from godwit_protocol.journal import SECTOR_BYTES

Kept = Callable[[int], int]
"""How many of so many versions, from the oldest, had come to the disk when the power went."""


def nothing(_: int) -> int:
    """Of what was not synced."""
    return 0


def everything(count: int) -> int:
    """As if the disk had been in no need of a sync."""
    return count


def by_dice(seed: int) -> Kept:
    """Each time any number of them."""
    dice = Random(seed)
    return lambda count: dice.randint(0, count)


LOSSES: Final[dict[str, Callable[[], Kept]]] = {
    "nothing": lambda: nothing,
    "everything": lambda: everything,
    **{f"dice {seed}": partial(by_dice, seed) for seed in range(6)},
}
"""By name, what is kept."""

_REAL: Final[dict[str, Callable[..., Any]]] = {
    name: getattr(os, name)
    for name in (
        "open",
        "close",
        "pwrite",
        "ftruncate",
        "fsync",
        "fdatasync",
        "mkdir",
        "rename",
        "unlink",
    )
}


class DiedError(BaseException):
    """The process is no more; what it would still do has no effect."""


@dataclass
class _File:
    length: int = 0
    durable: bytes = b""
    sectors: dict[int, list[tuple[int, bytes]]] = field(default_factory=dict)
    """By number: what was written into the sector and was not synced, with its offset."""
    lengths: list[int] = field(default_factory=list)

    def write(self, data: bytes, offset: int) -> None:
        end = offset + len(data)
        for place in range(offset // SECTOR_BYTES * SECTOR_BYTES, end, SECTOR_BYTES):
            begin = max(place, offset)
            part = data[begin - offset : place + SECTOR_BYTES - offset]
            self.sectors.setdefault(place, []).append((begin, part))
        if end > self.length:
            self.resize(end)

    def truncate(self, length: int) -> None:
        if length < self.length:
            self.write(bytes(self.length - length), length)
        self.resize(length)

    def resize(self, length: int) -> None:
        self.length = length
        self.lengths.append(length)

    def settle(self, kept: Kept) -> None:
        """Have only what is kept, durably."""
        lengths = [len(self.durable), *self.lengths]
        self.length = lengths[kept(len(self.lengths))]
        image = bytearray(max(lengths))
        image[: len(self.durable)] = self.durable
        for written in self.sectors.values():
            for offset, data in written[: kept(len(written))]:
                image[offset : offset + len(data)] = data
        self.durable = bytes(image[: self.length])
        self.forget()

    def forget(self) -> None:
        """Lose what was not synced, for good."""
        self.sectors.clear()
        self.lengths.clear()


@dataclass
class _Directory:
    entries: dict[str, _File | _Directory] = field(default_factory=dict)
    durable: dict[str, _File | _Directory] = field(default_factory=dict)
    versions: list[dict[str, _File | _Directory]] = field(default_factory=list)

    def change(self, entries: dict[str, _File | _Directory]) -> None:
        self.entries = entries
        self.versions.append(entries)

    def settle(self, kept: Kept) -> None:
        """Have only what is kept, durably."""
        self.entries = self.durable = [self.durable, *self.versions][kept(len(self.versions))]
        self.versions = []


class Disk:
    """A disk whose root is the directory ``path``, which is there."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.operations = 0
        """What processes have had it do so far."""
        self.dies_at: int | None = None
        """The operation that a process dies in: of a write a half is done, of others nothing."""
        self.room_bytes: int | None = None
        """What files may still grow by, if that is limited."""
        self.fails_next_sync = False
        self._root = _Directory()
        self._held: dict[int, _File | _Directory] = {}
        self._lives = 0
        path.mkdir()
        for name in _REAL:
            monkeypatch.setattr(os, name, getattr(self, f"_{name}"))

    def durable_bytes(self, path: Path) -> bytes:
        """What of a file's content is durable."""
        file = self._at(path)
        assert isinstance(file, _File)
        return file.durable

    def kill(self) -> None:
        """End the process, if it has not died: it lets go of all files."""
        while self._held:
            self._close(next(iter(self._held)))
        self.dies_at = None

    def lose_power(self, kept: Kept) -> None:
        """Kill the process and its host; the next ones see what was kept."""
        self.kill()
        self._lives += 1
        _REAL["rename"](self.path, self.path.with_name(f"{self.path.name}-{self._lives}"))
        _restore(self._root, self.path, kept)

    def _step(self) -> None:
        self.operations += 1
        if self.dies_at is not None and self.operations >= self.dies_at:
            raise DiedError

    def _at(self, path: Path) -> _File | _Directory | None:
        place: _File | _Directory | None = self._root
        for name in path.relative_to(self.path).parts:
            place = place.entries.get(name) if isinstance(place, _Directory) else None
        return place

    def _parent(self, path: Path) -> _Directory:
        parent = self._at(path.parent)
        assert isinstance(parent, _Directory)
        return parent

    def _is_mine(self, path: object) -> bool:
        return isinstance(path, str | os.PathLike) and Path(path).is_relative_to(self.path)

    def _open(self, path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if not self._is_mine(path):
            return int(_REAL["open"](path, flags, *rest, **named))
        self._step()
        path = Path(path)
        descriptor = int(_REAL["open"](path, flags, *rest, **named))
        node = self._at(path)
        if node is None:
            node, parent = _File(), self._parent(path)
            parent.change({**parent.entries, path.name: node})
        self._held[descriptor] = node
        return descriptor

    def _close(self, descriptor: int) -> None:
        self._held.pop(descriptor, None)
        _REAL["close"](descriptor)

    def _pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        file = self._held.get(descriptor)
        if isinstance(file, _File):
            data = bytes(data)
            if self.dies_at == self.operations + 1:
                data = data[: _half(len(data), offset)]
                _REAL["pwrite"](descriptor, data, offset)
                file.write(data, offset)
            self._step()
            file.write(data, offset)
        return int(_REAL["pwrite"](descriptor, data, offset))

    def _ftruncate(self, descriptor: int, length: int) -> None:
        file = self._held.get(descriptor)
        if isinstance(file, _File):
            self._step()
            file.truncate(length)
        _REAL["ftruncate"](descriptor, length)

    def _fsync(self, descriptor: int) -> None:
        node = self._held.get(descriptor)
        if node is None:
            return _REAL["fsync"](descriptor)  # type: ignore[no-any-return]
        self._step()
        if isinstance(node, _File):
            self._take_room(node)
            if self.fails_next_sync:
                self.fails_next_sync = False
                node.forget()
                raise OSError(errno.EIO, "Input/output error")
        return node.settle(everything)

    _fdatasync = _fsync  # the file's length too, which its data is not found without

    def _take_room(self, file: _File) -> None:
        grown = max(0, file.length - len(file.durable))
        if self.room_bytes is None:
            return
        if grown > self.room_bytes:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room_bytes -= grown

    def _mkdir(self, path: Any, *rest: Any, **named: Any) -> None:
        if not self._is_mine(path):
            return _REAL["mkdir"](path, *rest, **named)  # type: ignore[no-any-return]
        self._step()
        path = Path(path)
        _REAL["mkdir"](path, *rest, **named)
        parent = self._parent(path)
        return parent.change({**parent.entries, path.name: _Directory()})

    def _rename(self, path: Any, to: Any, **named: Any) -> None:
        if not self._is_mine(path):
            return _REAL["rename"](path, to, **named)  # type: ignore[no-any-return]
        self._step()
        path, to = Path(path), Path(to)
        assert path.parent == to.parent, "only a rename within a directory is modelled"
        _REAL["rename"](path, to)
        parent = self._parent(path)
        rest = {name: node for name, node in parent.entries.items() if name != path.name}
        return parent.change({**rest, to.name: parent.entries[path.name]})

    def _unlink(self, path: Any, **named: Any) -> None:
        if not self._is_mine(path):
            return _REAL["unlink"](path, **named)  # type: ignore[no-any-return]
        self._step()
        path = Path(path)
        _REAL["unlink"](path)
        parent = self._parent(path)
        return parent.change(
            {name: node for name, node in parent.entries.items() if name != path.name}
        )


def _half(length: int, offset: int) -> int:
    """About half of a write, which ends where a sector does."""
    return max(0, (offset + length // 2) // SECTOR_BYTES * SECTOR_BYTES - offset)


def _restore(node: _File | _Directory, path: Path, kept: Kept) -> None:
    node.settle(kept)
    if isinstance(node, _File):
        path.write_bytes(node.durable)
        return
    _REAL["mkdir"](path)
    for name, inner in node.entries.items():
        _restore(inner, path / name, kept)
