"""The raw kernel interface: userfaultfd, PAGEMAP_SCAN, madvise, and the probe for what is missing.

Numbers and layouts are those of the kernel headers named beside them. Knows addresses and file
descriptors, nothing of machines, regions or processes' roles.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import struct
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Final

import numpy as np
from numpy.typing import NDArray

from godwit_protocol.errors import UnsupportedError
from godwit_protocol.machine import PAGE_BYTES

MADV_POPULATE_READ: Final = 22  # asm-generic/mman-common.h, Linux 5.14
MADV_POPULATE_WRITE: Final = 23

_SYS_USERFAULTFD: Final = {"x86_64": 323, "aarch64": 282}  # asm/unistd_64.h, asm-generic/unistd.h
_UFFD_DEVICE: Final = "/dev/userfaultfd"
_UFFD_USER_MODE_ONLY: Final = 1  # linux/userfaultfd.h, as all UFFD names here
_UFFD_API: Final = 0xAA
_UFFD_FEATURE_WP_HUGETLBFS_SHMEM: Final = 1 << 12
_UFFD_FEATURE_WP_UNPOPULATED: Final = 1 << 13
_UFFD_FEATURE_WP_ASYNC: Final = 1 << 15
_UFFD_FEATURES: Final = (
    _UFFD_FEATURE_WP_HUGETLBFS_SHMEM | _UFFD_FEATURE_WP_UNPOPULATED | _UFFD_FEATURE_WP_ASYNC
)
_UFFDIO_REGISTER_MODE_WP: Final = 1 << 1
_API_LAYOUT: Final = "=3Q"  # struct uffdio_api: api, features, ioctls
_REGISTER_LAYOUT: Final = "=4Q"  # struct uffdio_register: start, len, mode, ioctls

_PM_SCAN_WP_MATCHING: Final = 1 << 0  # linux/fs.h, as all PM_SCAN and PAGE_IS names here
_PM_SCAN_CHECK_WPASYNC: Final = 1 << 1
_PAGE_IS_WPALLOWED: Final = 1 << 0
_PAGE_IS_WRITTEN: Final = 1 << 1
_SCAN_LAYOUT: Final = "=12Q"  # struct pm_scan_arg
_SCAN_WALK_END: Final = 4  # index of walk_end in it
_PAGE_REGION_WORDS: Final = 3  # struct page_region: start, end, categories


def _ioc(direction: int, kind: int, number: int, size_bytes: int) -> int:
    return direction << 30 | size_bytes << 16 | kind << 8 | number  # asm-generic/ioctl.h


_USERFAULTFD_IOC_NEW: Final = _ioc(0, 0xAA, 0x00, 0)
_UFFDIO_API: Final = _ioc(3, 0xAA, 0x3F, struct.calcsize(_API_LAYOUT))
_UFFDIO_REGISTER: Final = _ioc(3, 0xAA, 0x00, struct.calcsize(_REGISTER_LAYOUT))
_PAGEMAP_SCAN: Final = _ioc(3, ord("f"), 16, struct.calcsize(_SCAN_LAYOUT))

_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def madvise(address: int, size_bytes: int, advice: int) -> None:
    """Advise the kernel on a page-aligned range of this process, without holding the GIL.

    Raises ``OSError``.
    """
    if _libc.madvise(address, size_bytes, advice):
        code = ctypes.get_errno()
        raise OSError(code, f"madvise({advice}) of {size_bytes} bytes: {os.strerror(code)}")


def track_writes(ranges: Sequence[tuple[int, int]]) -> int:
    """Let the kernel track writes to ``ranges`` (address, bytes) of this process's shared memory.

    Nothing is protected until a scan arms it. Returns the userfaultfd; tracking ends when it is
    closed. Raises ``UnsupportedError``.
    """
    fd = _open_userfaultfd()
    try:
        api = struct.pack(_API_LAYOUT, _UFFD_API, _UFFD_FEATURES, 0)
        fcntl.ioctl(fd, _UFFDIO_API, bytearray(api))
        for address, size_bytes in ranges:
            area = struct.pack(_REGISTER_LAYOUT, address, size_bytes, _UFFDIO_REGISTER_MODE_WP, 0)
            fcntl.ioctl(fd, _UFFDIO_REGISTER, bytearray(area))
    except OSError as error:
        os.close(fd)
        raise UnsupportedError(
            f"userfaultfd cannot write-protect shared memory asynchronously ({error.strerror})",
            hint="run Linux 6.7 or newer, with CONFIG_USERFAULTFD and CONFIG_PTE_MARKER_UFFD_WP",
        ) from error
    return fd


def _open_userfaultfd() -> int:
    # User-mode-only needs no privilege. It loses nothing here: in asynchronous mode the kernel
    # resolves the faults of its own writes (such as read() into the memory) by itself.
    number = _SYS_USERFAULTFD.get(platform.machine())
    if number is not None:
        fd: int = _libc.syscall(number, os.O_CLOEXEC | os.O_NONBLOCK | _UFFD_USER_MODE_ONLY)
        if fd >= 0:
            return fd
    # Container runtimes forbid the system call by default; the device needs only its node.
    try:
        device = os.open(_UFFD_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise UnsupportedError(
            f"userfaultfd is not allowed, and {_UFFD_DEVICE} cannot be opened ({error.strerror})",
            hint=f"in a container, allow the system call or add the device {_UFFD_DEVICE}",
        ) from error
    try:
        return fcntl.ioctl(device, _USERFAULTFD_IOC_NEW, os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UnsupportedError(f"{_UFFD_DEVICE} gives no userfaultfd ({error.strerror})") from error
    finally:
        os.close(device)


class PagemapScanner:
    """``PAGEMAP_SCAN`` on one process's page table, from this process or from another."""

    VECTOR_RUNS: Final = 65536

    def __init__(self, pid: int) -> None:
        """Bind to the memory of process ``pid``, also if its number is given to another later.

        Raises ``OSError`` if it is dead or not ours to look at.
        """
        self._fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self._vector: NDArray[np.int64] = np.empty(
            (self.VECTOR_RUNS, _PAGE_REGION_WORDS), dtype=np.int64
        )

    def written(self, address: int, size_bytes: int, *, reset: bool) -> NDArray[np.int64]:
        """Runs of pages written since the last reset: int64, shape (n, 2), [start, end) addresses.

        With ``reset`` each page is reported and re-armed in one atomic step. Pages that were never
        armed count as written, whether or not anything is there. Raises ``OSError``.
        """
        flags = _PM_SCAN_CHECK_WPASYNC | (_PM_SCAN_WP_MATCHING if reset else 0)
        start, end = address, address + size_bytes
        runs = []
        while start < end:  # the kernel stops early when the vector is full, but never stands still
            count, stopped = self._scan_once(flags, start, end)
            assert stopped > start, "PAGEMAP_SCAN made no progress"
            runs.append(self._vector[:count, :2].copy())
            start = stopped
        return runs[0] if len(runs) == 1 else np.concatenate(runs)

    def tracks(self, address: int) -> bool:
        """Whether the page at ``address`` is still there, registered for tracking.

        The memory of a dead process scans as clean, without an error: ask this after a scan.
        """
        count, _ = self._ioctl(0, address, address + PAGE_BYTES, 0, _PAGE_IS_WPALLOWED)
        return count == 1

    def _scan_once(self, flags: int, start: int, end: int) -> tuple[int, int]:
        # category_mask and return_mask of exactly PAGE_IS_WRITTEN: the kernel's fast path, which
        # alone also reports pages that were written and then swapped out.
        return self._ioctl(flags, start, end, _PAGE_IS_WRITTEN, _PAGE_IS_WRITTEN)

    def _ioctl(self, flags: int, start: int, end: int, mask: int, wanted: int) -> tuple[int, int]:
        """Returns how many runs are in the vector, and the address where the walk ended."""
        size = struct.calcsize(_SCAN_LAYOUT)
        vector = (self._vector.ctypes.data, len(self._vector))
        fields = (size, flags, start, end, 0, *vector, 0, 0, mask, 0, wanted)
        argument = bytearray(struct.pack(_SCAN_LAYOUT, *fields))
        count = fcntl.ioctl(self._fd, _PAGEMAP_SCAN, argument)
        return count, struct.unpack(_SCAN_LAYOUT, argument)[_SCAN_WALK_END]

    def close(self) -> None:
        """Let go of the page table. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


MEMFD_HOLES: Final = "memfd_holes"
POPULATE: Final = "populate"
DIRTY_TRACKING: Final = "dirty_tracking"


def missing(done_without: Collection[str] = ()) -> list[str]:
    """What the native hypervisor needs and this kernel lacks, each a sentence; but for features
    that it does without.
    """
    probed = probe().items()
    return [lack for feature, lacks in probed if feature not in done_without for lack in lacks]


def probe() -> dict[str, list[str]]:
    """Try on two pages all that the native hypervisor needs; return by feature what fails, each a
    sentence.
    """
    if not hasattr(os, "memfd_create"):
        lack = "The system has no memfd_create: the native hypervisor needs Linux 6.7 or newer."
        return {MEMFD_HOLES: [lack], POPULATE: [lack], DIRTY_TRACKING: [lack]}
    fd = os.memfd_create("godwit-probe", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, 2 * PAGE_BYTES)
        with mmap.mmap(fd, 2 * PAGE_BYTES) as memory:
            return _probe(fd, memory)
    finally:
        os.close(fd)


def _probe(fd: int, memory: mmap.mmap) -> dict[str, list[str]]:
    anchor = ctypes.c_char.from_buffer(memory)
    address = ctypes.addressof(anchor)
    try:
        return {
            MEMFD_HOLES: _probe_holes(fd, memory),
            POPULATE: _probe_populate(address),
            DIRTY_TRACKING: _probe_tracking(address, memory),
        }
    finally:
        del anchor  # an export would keep the mapping from closing


def _probe_holes(fd: int, memory: mmap.mmap) -> list[str]:
    memory[0] = 1
    with suppress(OSError):
        if os.lseek(fd, 0, os.SEEK_DATA) == 0 and os.lseek(fd, 0, os.SEEK_HOLE) == PAGE_BYTES:
            return []
    return [
        f"SEEK_DATA and SEEK_HOLE do not find the {PAGE_BYTES}-byte pages of a memfd: "
        f"the native hypervisor needs Linux with {PAGE_BYTES}-byte pages and no forced huge pages."
    ]


def _probe_populate(address: int) -> list[str]:
    try:
        madvise(address, 2 * PAGE_BYTES, MADV_POPULATE_WRITE)
    except OSError as error:
        return [f"Memory cannot be populated ahead of use ({error.strerror}): needs Linux 5.14."]
    return []


def _probe_tracking(address: int, memory: mmap.mmap) -> list[str]:
    try:
        tracking = track_writes([(address, 2 * PAGE_BYTES)])
    except UnsupportedError as error:
        return [f"{error.message[0].upper()}{error.message[1:]}: {error.hint}."]
    try:
        return _probe_scan(address, memory)
    finally:
        os.close(tracking)


def _probe_scan(address: int, memory: mmap.mmap) -> list[str]:
    try:
        scanner = PagemapScanner(os.getpid())
    except OSError as error:
        return [f"The page table in /proc/PID/pagemap cannot be read ({error.strerror})."]
    try:
        scanner.written(address, 2 * PAGE_BYTES, reset=True)
        memory[PAGE_BYTES] = 1
        runs = scanner.written(address, 2 * PAGE_BYTES, reset=True).tolist()
    except OSError as error:
        unknown = error.errno in (errno.ENOTTY, errno.EINVAL)
        needs = "needs Linux 6.7 or newer" if unknown else error.strerror
        return [f"PAGEMAP_SCAN does not work: {needs}."]
    finally:
        scanner.close()
    if runs != [[address + PAGE_BYTES, address + 2 * PAGE_BYTES]]:
        return ["PAGEMAP_SCAN does not report exactly the page that was written."]
    return []
