"""No written page is ever missed, whoever writes it and however: seen from outside the writer."""

import os
import select
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from writer_process import Compared, Kernel, WriterProcess, empty_like, pages_of

from godwit.hypervisor.native.dirty import BLOCK_PAGES, WriteProtectTracker
from godwit.hypervisor.native.kernel import PagemapScanner
from godwit.hypervisor.native.memory import Region
from godwit.hypervisor.port import VmmLostError
from godwit_protocol.machine import PAGE_BYTES

SIZES = (3 * BLOCK_PAGES + 7, 40)
GIB_PAGES = 2**30 // PAGE_BYTES


@pytest.fixture(scope="module")
def writer():
    process = WriterProcess()
    yield process
    process.close()


def tracked(writer, *sizes):
    memory = writer.allocate(*sizes)
    return memory, WriteProtectTracker(writer.process.pid, memory)


@st.composite
def writes(draw):
    region = draw(st.integers(0, len(SIZES) - 1))
    page = draw(st.integers(0, SIZES[region] - 1))
    count = draw(st.integers(1, min(20, SIZES[region] - page)))
    return (draw(st.sampled_from(["store", "readinto", "read", "populate"])), region, page, count)


@pytest.mark.parametrize("way", [Kernel, Compared])
@settings(max_examples=60, deadline=None)
@given(
    before=st.lists(writes(), max_size=8),
    after=st.lists(writes() | st.just(("scan",)) | st.just(("peek",)), max_size=30),
)
def test_rounds_give_an_equal_copy_for_any_sequence_of_writes_and_scans(writer, way, before, after):
    memory = writer.allocate(*SIZES)
    for write in before:
        writer.do(*write)
    source = way(writer.process.pid, memory)
    tracker, replica = source.tracker, empty_like(memory)
    source.send(replica, tracker.arm())
    written = [set() for _ in SIZES]
    for verb, *arguments in after:
        if verb == "scan":
            rounds = tracker.scan()
            assert all(w <= pages_of(r) for w, r in zip(written, rounds, strict=True))
            source.send(replica, rounds)
            written = [set() for _ in SIZES]
        elif verb == "peek":
            assert all(n >= len(w) for n, w in zip(tracker.peek(), written, strict=True))
        else:
            writer.do(verb, *arguments)
            if verb in ("store", "readinto"):
                region, page, count = arguments
                written[region] |= set(range(page, page + count))
    source.send(replica, tracker.scan())
    assert replica.digests() == memory.digests()
    assert tracker.peek() == [0, 0]
    tracker.close()
    memory.close()
    replica.close()


@pytest.mark.parametrize("way", [Kernel, Compared])
def test_a_free_running_writer_loses_nothing_between_finding_and_sending(writer, way):
    memory = writer.allocate(*SIZES)
    source, replica = way(writer.process.pid, memory), empty_like(memory)
    source.send(replica, source.tracker.arm())
    scans = 0
    for seed in range(3):
        writer.send("storm", seed, 20_000)
        while not _answered(writer):
            source.send(replica, source.tracker.scan())
            scans += 1
        writer.receive()
    source.send(replica, source.tracker.scan())
    assert scans > 3
    assert replica.digests() == memory.digests()


def _answered(writer):
    return bool(select.select([writer.process.stdout], [], [], 0)[0])


def test_a_scan_reports_exactly_what_was_written_and_only_once(writer):
    memory, tracker = tracked(writer, *SIZES)
    writer.do("store", 0, 3, 2)
    writer.do("store", 0, 700, 1)
    assert [runs.tolist() for runs in tracker.arm()] == [[[3, 2], [700, 1]], []]
    assert [runs.tolist() for runs in tracker.scan()] == [[], []]
    writer.do("store", 0, 4, 1)
    writer.do("readinto", 1, 10, 3)
    assert tracker.peek() == [1, 3]
    assert [runs.tolist() for runs in tracker.scan()] == [[[4, 1]], [[10, 3]]]
    assert [runs.tolist() for runs in tracker.scan()] == [[], []]
    memory.close()


def test_a_block_that_fills_after_arming_is_reported_without_its_holes(writer):
    memory, tracker = tracked(writer, *SIZES)
    tracker.arm()
    writer.do("store", 0, BLOCK_PAGES + 9, 2)
    assert tracker.peek() == [2, 0]
    assert tracker.scan()[0].tolist() == [[BLOCK_PAGES + 9, 2]]
    writer.do("store", 0, BLOCK_PAGES + 100, 1)
    assert tracker.scan()[0].tolist() == [[BLOCK_PAGES + 100, 1]]
    memory.close()


def test_a_memfd_is_not_asked_again_for_blocks_that_are_known_to_hold_data(writer, monkeypatch):
    asked = []
    original = Region.extents

    def extents(region, *between):
        asked.append((region.name, *between[:2]))
        return original(region, *between)

    memory, tracker = tracked(writer, *SIZES)
    writer.do("store", 0, BLOCK_PAGES, 2 * BLOCK_PAGES)
    tracker.arm()
    monkeypatch.setattr(Region, "extents", extents)
    assert [runs.tolist() for runs in tracker.scan()] == [[], []]
    first, second = (region.name for region in memory.regions)
    assert asked == [(first, 0, 512), (first, 3 * 512, 3 * 512 + 7), (second, 0, 40)]
    memory.close()


def test_arming_again_begins_anew(writer):
    memory, tracker = tracked(writer, *SIZES)
    tracker.arm()
    writer.do("store", 1, 5, 1)
    assert tracker.arm()[1].tolist() == [[5, 1]]
    assert tracker.scan()[1].tolist() == []
    memory.close()


def test_more_runs_than_one_answer_of_the_kernel_holds(writer, monkeypatch):
    monkeypatch.setattr(PagemapScanner, "VECTOR_RUNS", 1000)
    memory, tracker = tracked(writer, 7000)
    tracker.arm()
    writer.do("populate", 0, 0, 7000)
    assert tracker.scan()[0].tolist() == [[0, 7000]]
    writer.do("comb", 0)
    runs = tracker.scan()[0]
    assert runs.tolist() == [[page, 1] for page in range(0, 7000, 2)]
    memory.close()


def test_a_large_sparse_region_costs_far_less_than_a_millisecond(writer):
    memory, tracker = tracked(writer, 8 * GIB_PAGES)
    for page in (0, 5 * BLOCK_PAGES, 8 * GIB_PAGES - 1):
        writer.do("store", 0, page, 1)
    tracker.arm()
    took = []
    for _ in range(20):
        began = time.perf_counter()
        tracker.scan()
        took.append(time.perf_counter() - began)
    assert min(took) < 0.0005
    assert os.fstat(memory.regions[0].fd).st_blocks * 512 == 3 * PAGE_BYTES
    memory.close()


def test_a_dead_vmm_is_told_as_such():
    process = WriterProcess()
    memory, tracker = tracked(process, *SIZES)
    tracker.arm()
    process.process.kill()
    process.close()
    with pytest.raises(VmmLostError):
        tracker.scan()
    with pytest.raises(VmmLostError):
        WriteProtectTracker(process.process.pid, memory)
    memory.close()
