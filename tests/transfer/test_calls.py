"""No Python work a page: what is called while a round goes out and in does not count its pages."""

import threading

import numpy as np
import pytest
from direct_link import direct, runs, work

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
