"""Ours beside the published algorithms (``bench/convergence.py``), over recorded traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import convergence
import pytest
import records
import tables
from convergence import Result

LONGER_MAX = 1.08
"""Than the fastest: ours may send another round where that shortens the stun, and slows nobody whom
it need not.
"""
LONGER_S_MAX = 0.1
STUN_LIMIT_MS = 500


@pytest.fixture(scope="module")
def results() -> Sequence[Result]:
    return convergence.compare(convergence.load_traces())


def test_wherever_another_moves_the_machine_so_does_ours_and_hardly_later(
    results: Sequence[Result],
) -> None:
    rows = 0
    for case, plays in convergence.by_case(results):
        ours, others = plays[convergence.OURS], convergence.others_that_moved(plays)
        if others:
            rows += 1
            assert ours.ends == "moved", case
            best_s = min(play.total_s for play in others)
            assert ours.total_s <= max(best_s * LONGER_MAX, best_s + LONGER_S_MAX), case
    assert rows > 15


def test_ours_is_no_worse_than_the_best_but_where_the_docs_say_why(
    results: Sequence[Result],
) -> None:
    """In total time, bytes and stun. None is missing in the list, and none is there for nothing."""
    assert set(convergence.worse(results)) == set(convergence.WORSE)


def test_a_measure_that_gets_worse_than_anothers_is_found(results: Sequence[Result]) -> None:
    for measure in convergence.MEASURES:
        case = convergence.Case("embedder", 10, measure)
        assert case not in convergence.WORSE
        (ours,) = (
            each
            for each in results
            if (each.trace, each.link_gbit, each.algorithm) == ("embedder", 10, convergence.OURS)
        )
        more = replace(ours, **{measure: getattr(ours, measure) * 1.01})
        changed = [more if each is ours else each for each in results]
        assert set(convergence.worse(changed)) == {*convergence.WORSE, case}


def test_the_page_has_the_tables_that_are_found(results: Sequence[Result]) -> None:
    """As ``make bench ONLY=convergence WRITE=1`` writes them."""
    text = records.markdown({"script": "", "text": convergence.told(results)})
    block = f"<!-- bench: convergence -->\n{text}\n<!-- end of bench -->"
    assert block in tables.PAGE.read_text()


def test_letting_hot_leaves_wait_never_costs_and_often_saves(results: Sequence[Result]) -> None:
    saved = 0
    for case, plays in convergence.by_case(results):
        ours, eager = plays[convergence.OURS], plays["godwit, nothing waits"]
        assert ours.sent_gb <= eager.sent_gb, case
        assert ours.total_s <= eager.total_s, case
        assert ours.stun_ms <= STUN_LIMIT_MS
        saved += ours.sent_gb < eager.sent_gb * 0.99
    assert saved >= 8
