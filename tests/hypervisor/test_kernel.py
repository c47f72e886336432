"""The probe tells what a kernel lacks: tried on this one, and on this one with parts forbidden."""

import os
import platform
import subprocess
import sys

import pytest
from page_table import mapped_pages

from godwit.hypervisor.native import kernel
from godwit.hypervisor.native.memory import MachineMemory
from godwit_protocol.machine import PAGE_BYTES, RegionSpec

SYSCALLS = {"x86_64": (16, 28, 323), "aarch64": (29, 233, 282)}  # ioctl, madvise, userfaultfd
FORBID = """
import ctypes, struct, sys
from godwit.hypervisor.native import kernel
number, argument, value, error = map(int, sys.argv[1:])
LOAD, EQUAL, RETURN, ALLOW, ERRNO = 0x20, 0x15, 0x06, 0x7FFF0000, 0x50000
code = [(LOAD, 0, 0, 0), (EQUAL, 0, 3, number), (LOAD, 0, 0, 16 + 8 * argument),
        (EQUAL, 0, 1, value), (RETURN, 0, 0, ERRNO | error), (RETURN, 0, 0, ALLOW)]
program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(program)))
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, ctypes.addressof(filter), 0, 0) == 0  # PR_SET_SECCOMP, filter
print(*kernel.missing(), sep="\\n")
"""
IOCTL, MADVISE, USERFAULTFD = SYSCALLS[platform.machine()]
EINVAL, ENOTTY = 22, 25


def test_this_kernel_lacks_nothing():
    assert kernel.missing() == []


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ((IOCTL, 1, kernel._PAGEMAP_SCAN, ENOTTY), "PAGEMAP_SCAN does not work: needs Linux 6.7"),
        ((IOCTL, 1, kernel._UFFDIO_API, EINVAL), "Userfaultfd cannot write-protect"),
        ((MADVISE, 2, kernel.MADV_POPULATE_WRITE, EINVAL), "Memory cannot be populated ahead"),
    ],
)
def test_what_is_forbidden_is_named_in_a_sentence(rule, sentence):
    command = [sys.executable, "-c", FORBID, *map(str, rule)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    (said,) = ended.stdout.splitlines()
    assert said.startswith(sentence)
    assert said.endswith(".")


def test_extents_are_what_was_touched():
    with MachineMemory.allocate([RegionSpec("r", 4096 * PAGE_BYTES)]) as memory:
        region = memory["r"]
        assert region.extents().tolist() == []
        for page in (0, 1, 3, 1030, 4095):
            region.pages[page, 9] = 1
        assert region.extents().tolist() == [[0, 2], [3, 1], [1030, 1], [4095, 1]]
        assert region.extents(1, 1031).tolist() == [[1, 1], [3, 1], [1030, 1]]
        assert region.extents(grain=512).tolist() == [[0, 512], [1024, 512], [3584, 512]]
        assert region.extents(1031, 4095).tolist() == []


def test_a_region_without_holes_is_not_walked(monkeypatch):
    with MachineMemory.allocate([RegionSpec("r", 64 * PAGE_BYTES)]) as memory:
        region = memory["r"]
        os.pwrite(region.fd, bytes(63 * PAGE_BYTES), 0)
        assert region.extents(60).tolist() == [[60, 3]]
        os.pwrite(region.fd, b"1", 63 * PAGE_BYTES)
        monkeypatch.setattr(os, "lseek", None)
        assert region.extents(60).tolist() == [[60, 4]]
        assert region.extents(64).tolist() == []


def test_a_region_that_is_closed_is_out_of_the_page_table_though_a_view_is_held():
    memory = MachineMemory.allocate([RegionSpec("held-on", 256 * PAGE_BYTES)])
    region, view = memory["held-on"], memory["held-on"].view
    region.pages[:] = 7
    assert mapped_pages("held-on") == 256
    memory.close()
    assert mapped_pages("held-on") == 0
    assert view[255 * PAGE_BYTES] == 7


def test_reading_a_region_by_its_descriptor_allocates_nothing():
    with MachineMemory.allocate([RegionSpec("r", 64 * PAGE_BYTES)]) as memory:
        region = memory["r"]
        assert os.pread(region.fd, PAGE_BYTES, 0) == bytes(PAGE_BYTES)
        assert region.extents().tolist() == []


def test_a_region_cannot_shrink_under_its_mappings():
    with (
        MachineMemory.allocate([RegionSpec("r", 4 * PAGE_BYTES)]) as memory,
        pytest.raises(PermissionError),
    ):
        os.ftruncate(memory["r"].fd, PAGE_BYTES)
