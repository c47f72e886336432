"""The page holds all parts of the story, is whole HTML, fetches nothing and lets nothing in."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from godwit.pictures.report import page
from godwit.runtime.log_file import LogFile
from godwit_protocol import codec
from godwit_protocol.events import Recorded
from godwit_protocol.replay.client_gap import ClientGap
from godwit_protocol.replay.timeline import timeline
from godwit_protocol.replay.verification import verify
from godwit_protocol.replay.what_if import recorded_move

LOGS = Path(__file__).parents[1] / "golden" / "logs"
VOID = {"meta", "br"}
PARTS = ["What happened", "Rounds", "The stun, taken apart", "What if", "Verification"]


class Reader(HTMLParser):
    """What a browser would make of the page, as far as it matters here."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.heads: list[str] = []
        self.seen: set[str] = set()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.fetched += [name for name, _ in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.heads.append(data)


def saying(recorded: Recorded, message: str) -> Recorded:
    """The event, with other words in it, by a writer of that name."""
    event = recorded.event
    if hasattr(event, "message"):
        event = msgspec.structs.replace(event, message=message)
    envelope = msgspec.structs.replace(recorded.envelope, host=message)
    return Recorded(envelope, event, recorded.sequence)


def read(name: str, message: str | None = None) -> tuple[Reader, str]:
    file = LogFile(LOGS / f"{name}.ndjson")
    migration, messages = file.head().of, list(file.messages())
    story = [codec.decode(each.data, each.sequence) for each in messages]
    told = timeline(migration, messages)
    if message is not None:
        moments = tuple(
            each._replace(recorded=saying(each.recorded, message)) for each in told.moments
        )
        summary = msgspec.structs.replace(told.summary, message=message, machine=message)
        told = told._replace(moments=moments, summary=summary)
    text = page(told, verify(migration, messages), recorded_move(migration, story))
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader, text


@pytest.mark.parametrize("name", ["v1-completed", "v1-aborted", "v1-rolled-back", "v1-in-doubt"])
def test_the_page_is_whole_and_needs_nothing_else(name: str) -> None:
    reader, text = read(name)
    parts = [part for part in PARTS if name != "v1-aborted" or "stun" not in part]
    assert reader.heads == parts
    assert "script" not in reader.seen
    assert reader.fetched == []
    assert "url(" not in text


@pytest.mark.parametrize(
    ("name", "where", "alarmed"),
    [
        ("v1-completed", "The machine is on host-2 now.", False),
        ("v1-rolled-back", "The machine stays on host-2, as it was.", False),
        ("v1-in-doubt", "start or delete nothing by hand", True),
    ],
)
def test_the_page_begins_with_where_the_machine_is(name: str, where: str, alarmed: bool) -> None:
    _, text = read(name)
    begins = text.partition("<body>")[2].partition("<dl>")[0]
    assert where in begins
    assert ('class="alarm"' in begins) is alarmed
    assert "what went wrong on the way is not" in text


def test_what_a_log_says_is_text_and_nothing_else() -> None:
    reader, text = read("v1-aborted", "<script>alert(1)</script>")
    assert "script" not in reader.seen
    assert "&lt;script&gt;" in text


def test_the_clients_gap_is_told_where_it_is_known() -> None:
    file = LogFile(LOGS / "v1-completed.ndjson")
    migration, messages = file.head().of, list(file.messages())
    told, checked = timeline(migration, messages), verify(migration, messages)
    gap = ClientGap(gap_ns=73_000_000, replies=12)
    assert "at most 73.0 ms without one, of 12 replies" in page(told, checked, None, gap)
    assert "without one" not in page(told, checked, None)
