"""What the log is told of a round."""

from godwit.hypervisor.port import DirtyPages, SentPages
from godwit.source_host.round_figures import figures_of
from godwit.transfer.pacing import Held


def figures(*, scan_ns, content_ns, duration_ns):
    sent = SentPages(
        pages=1,
        sent_bytes=4096,
        wire_bytes=4160,
        scan_ns=scan_ns,
        bytes_by_region={"ram": 4096},
        content_ns=content_ns,
        hole_bytes=12288,
        waiting_bytes=4096,
        waiting_ns=2,
    )
    left = DirtyPages(8192, look_ns=7, waiting_ns=3)
    return figures_of(1, sent, left, Held(0, 0), duration_ns)


def test_the_link_is_told_apart_from_what_finding_pages_and_content_took():
    told = figures(scan_ns=300, content_ns=200, duration_ns=1000)
    assert (told.duration_ns, told.carrying_ns, told.look_ns) == (1000, 500, 7)
    assert figures(scan_ns=600, content_ns=600, duration_ns=1000).carrying_ns == 1


def test_hot_leaves_are_told_at_a_round_s_beginning_and_at_its_end():
    told = figures(scan_ns=300, content_ns=200, duration_ns=1000)
    assert (told.waiting_bytes, told.waiting_ns, told.hole_bytes) == (4096, 5, 12288)
