"""No Python work a page: what is done while a round goes out and in does not count its pages."""

import numpy as np
import pytest
from direct_link import direct, runs, work
from test_compressed_rounds import TEXT, Told
from test_offers import Held

from godwit.transfer.connection import BulkConnection
from godwit.transfer.outgoing import RUNS_AT_ONCE
from godwit.transfer.pacing import SharedLink
from godwit.transfer.sent_leaves import SentLeaves
from godwit_protocol.bulk import CHUNK_PAGES
from godwit_protocol.compression import METHODS
from godwit_protocol.framing import HEADER_BYTES
from python_work import counted

PAGES = 16384
ROUNDS = 3
SHARE_MAX = 0.5
"""Of a round's pages: no line may run so often, in all rounds together."""


@pytest.mark.parametrize("every", [1, 2], ids=["runs", "scattered"])
@pytest.mark.parametrize("way", ["plain", "digested", "compressed", "zeros", "held", "compared"])
async def test_no_line_runs_for_each_page_of_a_round(way, every):
    """Of both ends. What finds pages is counted in ``hypervisor/test_work_of_a_move.py``."""
    first = np.arange(0, PAGES, every)
    chosen = runs((0, PAGES)) if every == 1 else np.stack([first, np.ones_like(first)], 1)
    given = {
        "plain": {"digested": False},
        "compressed": {"compressions": METHODS, "pacer": Told()},
        "held": {"content": Held()},
        "compared": {"leaves": SentLeaves([PAGES])},
    }
    with counted() as done:
        async with direct(1, PAGES, **given.get(way, {})) as link:
            if way != "zeros":
                np.copyto(link.here[0].pages.reshape(-1, *TEXT.shape), TEXT)
            for number in range(1, ROUNDS + 1):
                await link.move(number, work(0, link.here[0], chosen))
    place, times = done.most
    assert times < SHARE_MAX * len(first), place


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
