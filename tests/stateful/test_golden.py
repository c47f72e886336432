"""Golden files: traces that people read, and stored events that are never forgotten."""

from __future__ import annotations

import inspect
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from parts import DESTINATION, MIGRATION, SOURCE
from past_failures import PAST, has_gone_on, is_lost
from scenarios import GOLDEN, happy, link_lost_after_go

from godwit_protocol import codec
from godwit_protocol.events import Recorded, UnknownEvent
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import AbortReason, Outcome
from godwit_protocol.projections import MigrationSummary, fold

FOLDER = Path(__file__).parents[1] / "golden"
PAST_FOLDER = FOLDER / "past"
EVENT_LOG = FOLDER / "events-v1.log"
REWRITE = os.environ.get("GODWIT_GOLDEN") == "rewrite"
LENGTH = struct.Struct("<I")


@pytest.mark.parametrize("name", GOLDEN)
def test_the_trace_is_the_one_that_was_reviewed(name: str) -> None:
    check_story(FOLDER / f"{name}.txt", GOLDEN[name]().story.lines())


@pytest.mark.parametrize("name", PAST)
def test_what_went_wrong_once_goes_as_it_was_mended(name: str) -> None:
    world = PAST[name]()
    why = inspect.getdoc(PAST[name])
    assert why
    check_story(PAST_FOLDER / f"{name}.txt", [*why.splitlines(), "", *world.story.lines()])
    executing = [role for role in (SOURCE, DESTINATION) if world.vmms[role].executes]
    assert len(executing) == (0 if has_gone_on(world) or is_lost(world) else 1)


def check_story(path: Path, lines: list[str]) -> None:
    trace = "\n".join(lines).replace(MIGRATION, "<migration>") + "\n"
    if REWRITE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(trace, encoding="utf-8")
    assert trace == path.read_text(encoding="utf-8"), (
        "the protocol behaves differently: review it, then set GODWIT_GOLDEN=rewrite"
    )


def test_there_is_no_golden_file_that_nothing_checks() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(GOLDEN)
    assert {path.stem for path in PAST_FOLDER.glob("*.txt")} == set(PAST)


def folded(events: Iterator[Recorded] | list[Recorded]) -> MigrationSummary:
    summary = MigrationSummary(id=MIGRATION)
    for recorded in events:
        summary = fold(summary, recorded)
    return summary


def stored_events() -> Iterator[Recorded]:
    data, offset, sequence = EVENT_LOG.read_bytes(), 0, 0
    while offset < len(data):
        (size,) = LENGTH.unpack_from(data, offset)
        offset += LENGTH.size
        sequence += 1
        yield codec.decode(data[offset : offset + size], sequence)
        offset += size


def test_events_of_schema_1_are_read_for_ever() -> None:
    if REWRITE and not EVENT_LOG.exists():
        stored = happy().log.stored
        EVENT_LOG.write_bytes(b"".join(LENGTH.pack(len(data)) + data for data in stored))
    events = list(stored_events())
    assert not any(isinstance(recorded.event, UnknownEvent) for recorded in events)
    assert {recorded.envelope.schema for recorded in events} == {1}
    summary = folded(events)
    assert (summary.machine, summary.source, summary.destination) == ("m1", "host-1", "host-2")
    assert (summary.outcome, summary.reason) == (Outcome.COMPLETED, AbortReason.NONE)
    assert (len(summary.rounds), summary.sent_bytes) == (2, 32768)
    assert (summary.final_pages, summary.checkpoint_bytes) == (1, 512)
    assert summary.stun_ns == 1_085_000
    assert sum(summary.marks.components_ns().values()) == summary.stun_ns


def test_the_parts_of_a_stun_add_up_to_it() -> None:
    summary = folded(happy().log.recorded)
    components = summary.marks.components_ns()
    assert summary.stun_ns is not None
    assert sum(components.values()) == summary.stun_ns > 0
    assert all(part >= 0 for part in components.values()), components
    assert summary.duration_ns > summary.stun_ns


def test_an_event_of_the_future_is_counted_and_changes_nothing_else() -> None:
    events = happy().log.recorded
    before = folded(events)
    future = msgspec.structs.replace(
        events[-1],
        envelope=msgspec.structs.replace(events[-1].envelope, type="what_comes"),
        event=UnknownEvent(fields={"a": 1}),
    )
    after = fold(before, future)
    assert after.events == before.events + 1
    assert after == msgspec.structs.replace(before, events=after.events, last_type="what_comes")


def test_hosts_with_different_boots_give_no_stun_rather_than_a_wrong_one() -> None:
    events = [
        msgspec.structs.replace(
            recorded,
            envelope=msgspec.structs.replace(recorded.envelope, boot=recorded.envelope.host),
        )
        for recorded in happy().log.recorded
    ]
    summary = folded(events)
    assert summary.outcome is Outcome.COMPLETED
    assert summary.stun_ns is None
    assert summary.marks.components_ns() == {}


def test_an_aborted_stun_is_the_one_that_the_source_measured() -> None:
    world = link_lost_after_go()
    summary = folded(world.log.recorded)
    assert summary.outcome is Outcome.ABORTED
    events = [recorded.event for recorded in world.log.recorded]
    abandoned = next(event for event in events if isinstance(event, ev.MigrationAbandoned))
    assert summary.stun_ns == abandoned.stun_ns > 0
    assert world.vmms[SOURCE].executes


def test_a_doubt_shows_until_the_end_settles_it() -> None:
    events = [
        item for item in happy().log.recorded if not isinstance(item.event, ev.MigrationEnded)
    ]
    doubt = msgspec.structs.replace(events[-1], event=ev.DoubtRaised(message="no answer"))
    summary = fold(folded(events), doubt)
    assert (summary.outcome, summary.message) == (Outcome.IN_DOUBT, "no answer")
    ended = msgspec.structs.replace(events[-1], event=ev.MigrationEnded(outcome=Outcome.COMPLETED))
    assert fold(summary, ended).outcome is Outcome.COMPLETED
