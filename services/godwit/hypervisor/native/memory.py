"""A machine's memory: one memfd a region, mapped by the VMM and by the host services alike.

Knows nothing of dirty tracking, guests or the network. Reading a hole through a mapping would
allocate it, so whoever reads asks for the extents first.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from godwit_protocol.errors import RefusedError, UnsupportedError
from godwit_protocol.machine import PAGE_BYTES, RegionSpec

from . import kernel

Runs = NDArray[np.int64]
"""Runs of pages of one region: int64, shape (n, 2), of (start page, page count), ascending."""

NO_RUNS: Final[Runs] = np.empty((0, 2), dtype=np.int64)

RESERVE_BYTES: Final = 192 * 2**20
"""Left to the rest of the host when memory is populated: more than a batch, of which two may be
under way at once.
"""
BATCH_PAGES: Final = 16384
"""Pages that are populated in one go, up to twice of it: in between others are answered."""
_DIGEST_CHUNK_PAGES: Final = 512
_BLOCK_BYTES: Final = 512
"""As stat counts them."""


def runs_of(extents: Sequence[tuple[int, int]]) -> Runs:
    """Return ``extents``, pairs of (start page, page count), as ``Runs``."""
    return np.array(extents, dtype=np.int64).reshape(-1, 2)


def batches(runs: Runs) -> list[Runs]:
    """Cut ``runs`` into groups of up to twice ``BATCH_PAGES`` pages, in order."""
    pieces = -(-runs[:, 1] // BATCH_PAGES)
    which = np.repeat(np.arange(len(runs)), pieces)
    piece = np.arange(len(which)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = runs[which, 0] + piece * BATCH_PAGES
    counts = np.minimum(runs[which].sum(axis=1) - starts, BATCH_PAGES)
    group = np.cumsum(counts) // BATCH_PAGES
    cut = np.stack([starts, counts], axis=1)
    return np.split(cut, np.flatnonzero(np.diff(group)) + 1) if len(cut) else []


class Region:
    """One region, mapped into this process.

    ``address`` is where the VMM has it mapped, which is what a scan of the VMM's page table needs.
    ``view`` is the whole region, writable; ``pages`` the same as uint8, shape (pages, page bytes).
    """

    def __init__(self, spec: RegionSpec, fd: int, address: int | None = None) -> None:
        """Map ``fd`` and take ownership of it. ``address`` None: this process is the VMM."""
        self.name = spec.name
        self.size_bytes = spec.size_bytes
        self.fd = fd
        self._mapping = mmap.mmap(fd, spec.size_bytes)
        self.view = memoryview(self._mapping)
        self.pages: NDArray[np.uint8] = np.frombuffer(self.view, np.uint8).reshape(-1, PAGE_BYTES)
        self._own_address: int = self.pages.ctypes.data
        self.address = self._own_address if address is None else address

    @classmethod
    def allocate(cls, spec: RegionSpec) -> Self:
        """Create the region's memfd, all holes; its size is sealed: no mapping can lose pages."""
        fd = os.memfd_create(f"godwit-{spec.name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, spec.size_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        return cls(spec, fd)

    @property
    def page_count(self) -> int:
        """Pages in the region."""
        return len(self.pages)

    def extents(self, start_page: int = 0, end_page: int | None = None, grain: int = 1) -> Runs:
        """The pages in [start, end) that hold data, as runs of whole grains of ``grain`` pages.

        Takes two system calls an extent, and never more than two a grain. Runs end at ``end_page``.
        They walk page by page, 20 ms a GiB: where there are no holes, nobody is asked.
        """
        end = self.page_count if end_page is None else end_page
        if start_page < end and not self._holes():
            return runs_of([(start_page, end - start_page)])
        return _joined(runs_of(list(_extents(self.fd, start_page, end, grain))))

    def populate(self, runs: Runs, *, is_tracked: bool = True) -> None:
        """Make the pages of ``runs`` really there, in the memfd and in this process's page table.
        ``is_tracked``: whether writes of this process are tracked, as the VMM's are.

        Raises ``RefusedError`` if memory is lacking, ``ValueError`` for pages that do not exist.
        """
        _check_available(self._lacking_bytes(runs))
        # What was mapped to be read may then be written too, unless that is tracked; and the kernel
        # maps what is there already many pages at a time.
        self._advise(runs, kernel.MADV_POPULATE_WRITE if is_tracked else kernel.MADV_POPULATE_READ)

    def map_held(self, runs: Runs) -> None:
        """Put pages that are there into this process's page table, many at a time."""
        self._advise(runs, kernel.MADV_POPULATE_READ)

    def _advise(self, runs: Runs, advice: int) -> None:
        if len(runs) and (runs.min() < 0 or runs.sum(axis=1).max() > self.page_count):
            raise ValueError(f"region {self.name} has {self.page_count} pages")
        for start, count in runs.tolist():
            address = self._own_address + start * PAGE_BYTES
            try:
                kernel.madvise(address, count * PAGE_BYTES, advice)
            except OSError as error:
                if error.errno not in (errno.ENOMEM, errno.EFAULT):
                    raise
                raise RefusedError(
                    f"no memory for {count} pages of region {self.name}",
                    hint="free memory on this host, or move the machine to another",
                ) from error

    def _lacking_bytes(self, runs: Runs) -> int:
        """How much of ``runs`` may not be there yet. Told by how much there is in all: to look for
        each hole would take a tenth of what populating takes.
        """
        return min(int(runs[:, 1].sum()), self._holes()) * PAGE_BYTES

    def _holes(self) -> int:
        """Pages that are not there; a page that is just being made counts as there."""
        return self.page_count - os.fstat(self.fd).st_blocks * _BLOCK_BYTES // PAGE_BYTES

    def digest(self) -> bytes:
        """SHA-256 of the region's contents. A hole and a page of zeros are the same.

        Hashed are, for each run of pages that are not zero within a chunk, its first page's number
        and its bytes. Allocates nothing in the region; holds the GIL for microseconds at a time.
        """
        digest = hashlib.sha256()
        for start, count in self.extents().tolist():
            for first, last in _aligned_chunks(start, start + count):
                _hash_pages(digest, first, self.pages[first:last])
        return digest.digest()

    def close(self) -> None:
        """Drop the mapping and close the memfd; a view still held elsewhere keeps its memory.

        Takes a fraction of a second for gigabytes, without holding the GIL: the page table is
        emptied first, for Python would keep the GIL while it unmaps; and the descriptor is closed
        last, for that frees the memory if nobody else has it.
        """
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            with suppress(OSError):  # then unmapping takes its time
                kernel.madvise(self._own_address, self.size_bytes, mmap.MADV_DONTNEED)
            self.pages = np.empty((0, PAGE_BYTES), np.uint8)
            self.view = memoryview(b"")
            del self._mapping
            os.close(fd)


def available_bytes() -> int:
    """How much memory this host could still give, as the kernel estimates it."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise UnsupportedError("/proc/meminfo has no MemAvailable", hint="Linux is needed")


def _check_available(wanted_bytes: int) -> None:
    """Raise ``RefusedError`` unless so much memory can be had, and ``RESERVE_BYTES`` be left.

    The kernel refuses no page of a memfd: it kills processes instead.
    """
    available = available_bytes() - RESERVE_BYTES
    if wanted_bytes > available:
        raise RefusedError(
            f"{wanted_bytes} bytes of memory are wanted; {max(available, 0)} are available",
            hint="free memory on this host, or move the machine to another",
        )


def _extents(fd: int, start: int, end: int, grain: int) -> Iterator[tuple[int, int]]:
    position = start
    while position < end:
        data = _seek(fd, position, os.SEEK_DATA, end)
        if data >= end:
            return
        hole = _seek(fd, data, os.SEEK_HOLE, end)
        first = max(data // grain * grain, position)
        position = min(-(-hole // grain) * grain, end)
        yield first, position - first


def _joined(runs: Runs) -> Runs:
    """``runs`` with those made one that touch."""
    if not len(runs):
        return runs
    ends = runs.sum(axis=1)
    apart = runs[1:, 0] != ends[:-1]
    starts = runs[np.append(True, apart), 0]
    ends = ends[np.append(apart, True)]
    return np.stack([starts, ends - starts], axis=1)


def _seek(fd: int, page: int, whence: int, end: int) -> int:
    try:
        return os.lseek(fd, page * PAGE_BYTES, whence) // PAGE_BYTES
    except OSError as error:
        if error.errno != errno.ENXIO:  # there is nothing more
            raise
        return end


def _aligned_chunks(start: int, end: int) -> Iterator[tuple[int, int]]:
    # Aligned, so that the digest does not depend on where the extents happen to begin.
    while start < end:
        boundary = min((start // _DIGEST_CHUNK_PAGES + 1) * _DIGEST_CHUNK_PAGES, end)
        yield start, boundary
        start = boundary


def _hash_pages(digest: hashlib._Hash, first_page: int, pages: NDArray[np.uint8]) -> None:
    filled = pages.view(np.uint64).any(axis=1)
    edges = np.flatnonzero(np.diff(filled, prepend=False, append=False)).reshape(-1, 2)
    for start, end in edges.tolist():
        digest.update((first_page + start).to_bytes(8, "little"))
        digest.update(pages[start:end].data)


class MachineMemory:
    """All regions of a machine, in the order of its specification. A context manager."""

    def __init__(self, regions: Sequence[Region]) -> None:
        self.regions = tuple(regions)

    @classmethod
    def allocate(cls, specs: Sequence[RegionSpec]) -> Self:
        """Create fresh memory, all holes: it costs nothing until it is touched."""
        return cls([Region.allocate(spec) for spec in specs])

    @classmethod
    def adopt(
        cls, specs: Sequence[RegionSpec], fds: Sequence[int], addresses: Sequence[int]
    ) -> Self:
        """Map memory received from a VMM, taking ownership of ``fds``, also if that fails."""
        regions: list[Region] = []
        try:
            for spec, fd, address in zip(specs, fds, addresses, strict=True):
                regions.append(Region(spec, fd, address))
        except BaseException:
            for region in regions:
                region.close()
            for fd in fds[len(regions) :]:
                os.close(fd)
            raise
        return cls(regions)

    def __getitem__(self, name: str) -> Region:
        """The region called ``name``. Raises ``KeyError``."""
        for region in self.regions:
            if region.name == name:
                return region
        raise KeyError(name)

    def digests(self) -> tuple[bytes, ...]:
        """SHA-256 of each region; see ``Region.digest``."""
        return tuple(region.digest() for region in self.regions)

    def close(self) -> None:
        """Close every region. Idempotent."""
        for region in self.regions:
            region.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
