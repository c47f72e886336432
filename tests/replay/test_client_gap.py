"""What clients heard while a machine was moved, from when its replies were stored."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from godwit.pictures.reading import client_gap
from godwit.runtime.log_file import LogFile
from godwit_protocol import subjects
from godwit_protocol.replay import lines
from godwit_protocol.replay.client_gap import AFTERWARDS_NS, ClientGap, Gaps, window_of
from godwit_protocol.stored import Stored

LOG = Path(__file__).parents[1] / "golden" / "logs" / "v1-completed.ndjson"


def test_the_longest_time_between_two_replies_counts() -> None:
    gaps = Gaps((100, 200))
    for time_ns in (10, 90, 105, 130, 199, 500):
        gaps.take(time_ns)
    assert gaps.found() == ClientGap(gap_ns=69, replies=3)
    silent = Gaps((100, 200))
    silent.take(150)
    assert silent.found() is None


def test_a_gap_that_began_before_it_is_counted_from_there() -> None:
    gaps = Gaps((100, 200))
    gaps.take(40)
    gaps.take(160)
    assert gaps.found() == ClientGap(gap_ns=120, replies=1)


@pytest.mark.parametrize("asked", [True, False])
async def test_replies_in_the_log_tell_the_gap(tmp_path: Path, asked: bool) -> None:
    messages = list(LogFile(LOG).messages())
    window = window_of(messages)
    assert window is not None
    begun, ended = window[0], window[1] - AFTERWARDS_NS
    replies = [
        Stored(subject=subjects.guest_reply("m"), sequence=number, time_ns=time_ns, data=b"")
        for number, time_ns in enumerate((begun, begun + 5, ended), start=1)
        if asked
    ]
    path = tmp_path / "log"
    written = [lines.encode_line(each) for each in (*messages, *replies)]
    path.write_bytes(lines.encode_head() + b"".join(written))
    found = await client_gap(LogFile(path), "m", messages)
    assert found == (ClientGap(gap_ns=ended - begun - 5, replies=3) if asked else None)
    unended = [msgspec.structs.replace(each) for each in messages[:-1]]
    assert await client_gap(LogFile(path), "m", unended) is None
