"""No Python work a page: what is called while a round goes out and in does not count its pages."""

import threading

import numpy as np
import pytest
from direct_link import direct, runs, work

from godwit.transfer.connection import BulkConnection
from godwit.transfer.outgoing import RUNS_AT_ONCE
from godwit.transfer.pacing import SharedLink
from godwit_protocol.bulk import CHUNK_PAGES
from godwit_protocol.framing import HEADER_BYTES

PAGES = 16384
CALLS_A_PAGE_MAX = 1.0


@pytest.mark.parametrize("digested", [False, True])
@pytest.mark.parametrize("every", [1, 2], ids=["runs", "scattered"])
async def test_a_round_takes_far_less_than_a_call_a_page(every, digested):
    calls = dict.fromkeys(["bulk-send", "bulk-receive"], 0)

    def count(_frame, event, _argument):
        if event in ("call", "c_call"):
            kind = threading.current_thread().name.rstrip("0123456789_-")
            calls[kind] = calls.get(kind, 0) + 1

    threading.setprofile(count)
    try:
        async with direct(1, PAGES, digested=digested) as link:
            link.here[0].pages[:] = 7
            first = np.arange(0, PAGES, every)
            chosen = runs((0, PAGES)) if every == 1 else np.stack([first, np.ones_like(first)], 1)
            for number in (1, 2, 3):
                await link.move(number, work(0, link.here[0], chosen))
    finally:
        threading.setprofile(None)
    pages = 3 * len(first)
    assert 0 < calls["bulk-send"] < CALLS_A_PAGE_MAX * pages
    assert 0 < calls["bulk-receive"] < CALLS_A_PAGE_MAX * pages


@pytest.mark.parametrize(
    ("digested", "cap", "at_once"),
    [(False, 0, RUNS_AT_ONCE), (True, 0, 1), (False, 10**12, 1)],
    ids=["as they are", "copied", "capped"],
)
async def test_runs_go_out_together_unless_each_is_copied_or_waits(
    monkeypatch, digested, cap, at_once
):
    runs_in_call = []
    send_parts = BulkConnection.send_parts

    def counted(connection, parts):
        runs_in_call.append(sum(len(part) == HEADER_BYTES for part in parts))
        send_parts(connection, parts)

    monkeypatch.setattr(BulkConnection, "send_parts", counted)
    pages = 2 * RUNS_AT_ONCE * CHUNK_PAGES
    pacer = SharedLink().pace(cap)
    pacer.join()
    async with direct(1, pages, digested=digested, pacer=pacer) as link:
        link.here[0].stamp(range(pages), 1)
        await link.move(1, work(0, link.here[0], runs((0, pages))))
        assert np.array_equal(link.here[0].pages, link.there[0].pages)
    assert max(runs_in_call) == at_once
    assert sum(runs_in_call) == 2 * RUNS_AT_ONCE
