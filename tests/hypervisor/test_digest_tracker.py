"""What is compared with what was sent: leaves, no holes, and a VMM that must be alive."""

import fcntl
import os
import resource
import subprocess
import sys

import pytest
from test_kernel import ENOTTY, FORBID, IOCTL
from writer_process import Compared, WriterProcess, empty_like

from godwit.hypervisor.native import kernel
from godwit.hypervisor.port import VmmLostError
from godwit.transfer.sent_leaves import LEAF_PAGES
from godwit_protocol.machine import PAGE_BYTES

SIZES = (600, 40)


@pytest.fixture(scope="module")
def writer():
    process = WriterProcess()
    yield process
    process.close()


def begun(writer, *sizes):
    memory = writer.allocate(*sizes)
    return memory, Compared(writer.process.pid, memory), empty_like(memory)


def test_a_leaf_is_found_until_it_was_sent_and_without_its_holes(writer):
    memory, source, replica = begun(writer, *SIZES)
    writer.do("store", 0, 0, 2 * LEAF_PAGES)
    writer.do("store", 1, 39, 1)
    source.send(replica, source.tracker.arm())
    assert source.tracker.peek() == [0, 0]
    writer.do("store", 0, 3, 1)
    writer.do("store", 0, LEAF_PAGES * 10 + 2, 2)
    for _ in range(2):
        found = [runs.tolist() for runs in source.tracker.scan()]
        assert found == [[[0, LEAF_PAGES], [LEAF_PAGES * 10 + 2, 2]], []]
    source.send(replica, source.tracker.scan())
    assert source.tracker.peek() == [0, 0]
    source.tracker.arm()
    assert source.tracker.peek() == [2 * LEAF_PAGES + 2, 1]
    memory.close()


def test_what_is_written_again_with_what_it_held_is_not_found(writer):
    memory, source, replica = begun(writer, *SIZES)
    writer.do("comb", 0)
    source.send(replica, source.tracker.arm())
    writer.do("comb", 0)
    assert source.tracker.peek() == [0, 0]
    memory.close()


def test_looking_allocates_nothing(writer):
    memory, source, _ = begun(writer, 2**18)
    for page in (0, 5000, 2**18 - 1):
        writer.do("store", 0, page, 1)
    source.tracker.arm()
    assert source.tracker.peek() == [3]
    assert os.fstat(memory.regions[0].fd).st_blocks * 512 == 3 * PAGE_BYTES
    memory.close()


def test_a_vmm_is_looked_after_by_a_process_with_many_open_files(writer, monkeypatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    plain = os.pidfd_open

    def beyond_the_first_thousand(pid):
        low = plain(pid)
        high = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 2000)
        os.close(low)
        return high

    monkeypatch.setattr(os, "pidfd_open", beyond_the_first_thousand)
    memory, source, _ = begun(writer, *SIZES)
    assert source.tracker.peek() == [0, 0]
    source.tracker.close()
    memory.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_dead_vmm_is_told_as_such():
    process = WriterProcess()
    memory, source, _ = begun(process, *SIZES)
    process.process.kill()
    process.close()
    with pytest.raises(VmmLostError):
        source.tracker.scan()
    with pytest.raises(VmmLostError):
        Compared(process.process.pid, memory)
    source.tracker.close()
    memory.close()


WITHOUT_SCAN = """
from pathlib import Path
from godwit.hypervisor.native.driver import NativeHypervisor
from godwit.runtime.choices import DirtyTracking
for tracking in DirtyTracking:
    host = NativeHypervisor(Path("."), "", tracking)
    has = "dirty_tracking" in host.features()
    print(tracking, host._way_of_tracking(), len(host.missing()), has)
"""


def test_a_kernel_without_pagemap_scan_is_served_by_digests():
    rule = (IOCTL, 1, kernel._PAGEMAP_SCAN, ENOTTY)
    command = [sys.executable, "-c", FORBID + WITHOUT_SCAN, *map(str, rule)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout.splitlines()[1:] == [
        "auto digest 0 True",
        "pagemap pagemap 1 False",
        "digest digest 0 True",
    ]
