"""What the log is told of a round: what was sent, what it left, and how it was held back."""

from __future__ import annotations

from godwit.hypervisor.port import DirtyPages, SentPages
from godwit.transfer.pacing import Held
from godwit_protocol.events.migration import RoundFigures


def figures_of(
    round_number: int, sent: SentPages, left: DirtyPages, held: Held, duration_ns: int
) -> RoundFigures:
    """``duration_ns``: from the round's beginning to its being applied."""
    return RoundFigures(
        round=round_number,
        pages=sent.pages,
        sent_bytes=sent.sent_bytes,
        wire_bytes=sent.wire_bytes,
        duration_ns=duration_ns,
        carrying_ns=max(duration_ns - sent.scan_ns - sent.content_ns, 1),
        scan_ns=sent.scan_ns,
        remaining_bytes=left.total_bytes,
        hot_bytes=left.hot_bytes,
        look_ns=left.look_ns,
        waiting_bytes=sent.waiting_bytes,
        waiting_ns=sent.waiting_ns + left.waiting_ns,
        hole_bytes=sent.hole_bytes,
        bytes_by_region=sent.bytes_by_region,
        digest_ns=sent.digest_ns,
        zero_bytes=sent.zero_bytes,
        zero_ns=sent.zero_ns,
        rewritten_bytes=sent.rewritten_bytes,
        rewritten_ns=sent.rewritten_ns,
        looked_bytes=sent.looked_bytes,
        content_bytes=sent.content_bytes,
        content_ns=sent.content_ns,
        compression=sent.compression,
        compression_bytes=sent.compression_bytes,
        compression_ns=sent.compression_ns,
        link_bytes_per_second=sent.link_bytes_per_second,
        connections=sent.connections,
        cap_bytes_per_second=held.cap_bytes_per_second,
        paced_ns=held.paced_ns,
    )
