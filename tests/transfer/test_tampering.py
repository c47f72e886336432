"""What happens to bytes between the two hosts is found, typed, whatever the counts say."""

import asyncio
import contextlib
from dataclasses import dataclass, field

import numpy as np
import pytest
from direct_link import DEADLINE_S, Direct, direct, runs, work
from msgspec.structs import replace

from godwit_protocol.errors import CorruptError, GodwitError, RemoteProtocolError, UnreachableError
from godwit_protocol.framing import Frame, FrameKind
from tampering import Tamper, Tampered, doubled, flipped_bit, lost, of_another_migration

RUN, SCATTER, ZERO = FrameKind.RUN, FrameKind.SCATTER, FrameKind.ZERO
PAGES = 1024


def elsewhere(frame: Frame, payload: bytes) -> list[tuple[Frame, bytes]]:
    """The run lands where it may, but is not meant to."""
    return [
        (replace(frame, first_page=frame.first_page + 1) if frame.kind is RUN else frame, payload)
    ]


def not_so_long(frame: Frame, payload: bytes) -> list[tuple[Frame, bytes]]:
    """Zeros where the source has none: counts, sequence and checksums are all right."""
    return [
        (replace(frame, first_page=frame.first_page + 1) if frame.kind is ZERO else frame, payload)
    ]


@dataclass
class Exchanged:
    """Two frames of a connection change their payloads: nothing but a digest can see it."""

    held: list[tuple[Frame, bytes]] = field(default_factory=list)

    def __call__(self, frame: Frame, payload: bytes) -> list[tuple[Frame, bytes]]:
        if frame.kind is not RUN:
            return [(frame, payload)]
        self.held.append((frame, payload))
        if len(self.held) < 2:
            return []
        (first, one), (second, other) = self.held
        self.held = []
        return [(first, other), (second, one)]


async def outcome(tamper: Tamper, *, digested: bool = True) -> tuple[GodwitError | None, Direct]:
    """What the destination fails of, of one round through ``tamper``."""
    through = Tampered(tamper)
    try:
        async with direct(1, PAGES, digested=digested, via=through.in_front_of) as link:
            link.here[0].stamp(range(PAGES), 1)
            link.there[0].stamp(range(PAGES), 2)
            to_send = runs((0, 64), (100, 1), (105, 2), (512, 64))
            sending = [work(0, link.here[0], to_send, runs((200, 20)))]
            with contextlib.suppress(UnreachableError):  # the source may find all closed first
                await asyncio.to_thread(link.sender.send_round, 1, sending)
            try:
                async with asyncio.timeout(DEADLINE_S):
                    await link.session.round_applied(1)
            except GodwitError as error:
                return error, link
            assert link.session.applied_digest() == link.sender.sent_digest()
            return None, link
    finally:
        through.close()


@pytest.mark.parametrize(
    ("tamper", "error", "says"),
    [
        (flipped_bit(RUN), CorruptError, "digest"),
        (flipped_bit(SCATTER), CorruptError, "digest"),
        (elsewhere, CorruptError, "digest"),
        (not_so_long, CorruptError, "digest"),
        (Exchanged(), CorruptError, "digest"),
        (lost(SCATTER), RemoteProtocolError, "lost or doubled"),
        (doubled(SCATTER), RemoteProtocolError, "lost or doubled"),
        (of_another_migration(RUN), RemoteProtocolError, "another migration"),
    ],
    ids=["run bit", "scatter bit", "elsewhere", "zeros", "exchanged", "lost", "doubled", "other"],
)
async def test_tampering_is_found(tamper: Tamper, error: type[GodwitError], says: str) -> None:
    found, _ = await outcome(tamper)
    assert isinstance(found, error)
    assert says in found.message


@pytest.mark.parametrize("tamper", [flipped_bit(RUN), flipped_bit(SCATTER), elsewhere, Exchanged()])
async def test_without_digests_it_is_not(tamper: Tamper) -> None:
    """So the tests above find what only a digest can find."""
    found, link = await outcome(tamper, digested=False)
    assert found is None
    assert link.sender.sent_digest() == link.session.applied_digest() == b""
    sent = [*range(64), 100, 105, 106, *range(512, 576)]
    assert not np.array_equal(link.here[0].pages[sent], link.there[0].pages[sent])


async def test_untouched_frames_pass() -> None:
    found, link = await outcome(lambda frame, payload: [(frame, payload)])
    assert found is None
    assert np.array_equal(link.here[0].pages[:64], link.there[0].pages[:64])
    assert not link.there[0].pages[200:220].any()


async def test_pages_that_are_written_while_they_are_sent_alter_nothing() -> None:
    """What is digested is what was sent: a guest that writes is no fault of the link."""
    async with direct(2, 8 * PAGES) as link:
        link.here[0].stamp(range(8 * PAGES), 1)
        sending = asyncio.create_task(link.move(1, work(0, link.here[0], runs((0, 8 * PAGES)))))
        count = 0
        while not sending.done():
            link.here[0].pages[:, count % 4096] += 1
            count += 1
            await asyncio.sleep(0)
        await sending
        assert count
        assert link.session.applied_digest() == link.sender.sent_digest()
