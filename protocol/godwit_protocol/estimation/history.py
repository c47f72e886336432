"""What estimates are made from: windows of a machine's writes, and samples of links. Pure data.

A dirty set saturates: a guest that writes one page a million times dirties one page. So a window is
no rate but a curve: how many distinct bytes were written after 5 ms, 20 ms, and so on.

Windows come as telemetry, which anybody on the log may write: ``decode_window`` checks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Self, TypeVar

import msgspec

from ..convergence import TELLING_BYTES
from ..errors import CorruptError

WINDOW_NS: Final = (5_000_000, 20_000_000, 80_000_000, 320_000_000, 1_280_000_000)
"""When a window looks, from its beginning. A round takes about so long; of a longer one the last
two instants tell how the curve goes on."""
WINDOWS_MAX: Final = 32
"""Windows of a machine that are kept, the newest."""
LINK_SAMPLES_MAX: Final = 32
"""Samples of a link that are kept, the newest."""

T = TypeVar("T")
N = TypeVar("N", int, float)


class RegionWrites(msgspec.Struct, frozen=True):
    """One region in a window: the bytes it held, and of how many pages (in bytes) a write was seen
    by each instant of the window.
    """

    name: str
    resident_bytes: int
    written_bytes: tuple[int, ...]


class DirtyWindow(msgspec.Struct, frozen=True, kw_only=True):
    """One look at what a running machine writes.

    ``elapsed_ns``: the instants, from the window's beginning. ``cost_ns``: processor time that the
    looking took outside the machine. ``epoch``: the one that the machine ran under.
    """

    machine: str
    host: str
    epoch: int
    taken_wall_ns: int
    elapsed_ns: tuple[int, ...]
    regions: tuple[RegionWrites, ...]
    cost_ns: int = 0

    @property
    def resident_bytes(self) -> int:
        """What the machine held, all regions together."""
        return sum(region.resident_bytes for region in self.regions)

    @property
    def written_bytes(self) -> tuple[int, ...]:
        """Distinct bytes written by each instant, all regions together."""
        by_region = (region.written_bytes for region in self.regions)
        return tuple(map(sum, zip(*by_region, strict=True)))

    def checked(self) -> Self:
        """Return self if it is a curve. Raises ``CorruptError``."""
        if not self.elapsed_ns or not self.regions or not _ascends((0, *self.elapsed_ns)):
            raise CorruptError(f"a window of machine {self.machine!r} has no instants or regions")
        for region in self.regions:
            written = region.written_bytes
            if len(written) != len(self.elapsed_ns) or list(written) != sorted((0, *written))[1:]:
                raise CorruptError(f"region {region.name!r} of a window is no curve: {written}")
            if region.resident_bytes < 0:
                raise CorruptError(f"region {region.name!r} holds {region.resident_bytes} bytes")
        return self


class MachineHistory(msgspec.Struct, frozen=True, kw_only=True):
    """A machine's windows, the oldest first."""

    machine: str
    windows: tuple[DirtyWindow, ...] = ()

    def with_window(self, window: DirtyWindow) -> Self:
        """Return the history with one more, and the oldest gone if there are too many."""
        kept = (*self.windows, window)[-WINDOWS_MAX:]
        return msgspec.structs.replace(self, windows=kept)

    def since(self, epoch: int) -> Self:
        """Return what was seen since the machine was started under ``epoch``: a new start is
        another guest under the same name.
        """
        kept = tuple(window for window in self.windows if window.epoch >= epoch)
        return msgspec.structs.replace(self, windows=kept)


class LinkSample(msgspec.Struct, frozen=True, kw_only=True):
    """What one finished migration says of its link and of the switchover over it.

    ``bytes_per_second``: of its largest round. ``round_overhead_ns``: what a round took beyond its
    bytes. ``intent_ns``: from the last round's end to the guest's last step. ``switchover_ns``: the
    stun but for its bytes. ``around_ns``: all that was neither round nor stun. ``final_bytes``:
    what the stun sent; 0 where another machine must not be judged by it. ``largest_bytes``: of its
    largest round; one of few bytes is mostly latency, and its rate only the least there is; 0: all
    its rounds were capped, and so is that.
    """

    migration: str
    machine: str
    source: str
    destination: str
    bytes_per_second: float
    round_overhead_ns: int
    intent_ns: int
    switchover_ns: int
    around_ns: int
    final_bytes: int = 0
    largest_bytes: int = TELLING_BYTES

    @property
    def tells_rate(self) -> bool:
        """Whether its rate is the link's."""
        return self.largest_bytes >= TELLING_BYTES


class LinkHistory(msgspec.Struct, frozen=True, kw_only=True):
    """A link's samples, one direction, the oldest first."""

    source: str
    destination: str
    samples: tuple[LinkSample, ...] = ()

    def with_sample(self, sample: LinkSample) -> Self:
        """Return the history with one more, and the oldest gone if there are too many; one of the
        same migration is replaced.
        """
        others = tuple(each for each in self.samples if each.migration != sample.migration)
        kept = (*others, sample)[-LINK_SAMPLES_MAX:]
        return msgspec.structs.replace(self, samples=kept)


def encode(kept: DirtyWindow | MachineHistory | LinkHistory) -> bytes:
    """Return the stored form."""
    return msgspec.msgpack.encode(kept)


def decode_window(data: bytes) -> DirtyWindow:
    """Return a window. Raises ``CorruptError``."""
    return _decoded(data, DirtyWindow).checked()


def decode_machine(data: bytes) -> MachineHistory:
    """Return a machine's history. Raises ``CorruptError``."""
    history = _decoded(data, MachineHistory)
    for window in history.windows:
        window.checked()
    return history


def decode_link(data: bytes) -> LinkHistory:
    """Return a link's history. Raises ``CorruptError``."""
    history = _decoded(data, LinkHistory)
    for sample in history.samples:
        if not sample.bytes_per_second > 0.0:
            raise CorruptError(f"a link sample has {sample.bytes_per_second} bytes a second")
    return history


def middle(values: Sequence[N]) -> N:
    """The lower median of at least one value."""
    return sorted(values)[(len(values) - 1) // 2]


def _decoded(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise CorruptError(f"this is no {kind.__name__}: {error}") from error


def _ascends(values: Sequence[int]) -> bool:
    return all(before < after for before, after in pairwise(values))
