"""What is said of a stun is so, also where nobody measured it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from godwit.pictures.migrations import as_json
from godwit.pictures.narrative import Narrator
from godwit.pictures.report import page
from godwit.pictures.stun import stun, stun_parts
from godwit.runtime.log_file import LogFile
from godwit_protocol import codec
from godwit_protocol.events import Lane, Recorded
from godwit_protocol.events import migration as ev
from godwit_protocol.projections import BETWEEN_HOSTS, STUN_PARTS, MigrationSummary, fold
from godwit_protocol.replay.timeline import timeline
from godwit_protocol.replay.verification import verify
from two_computers import AHEAD_NS, ERROR_NS, measured, on_two_computers

LOGS = Path(__file__).parents[1] / "golden" / "logs"
Change = Callable[[Recorded], Recorded | None]


def as_it_was(recorded: Recorded) -> Recorded:
    return recorded


def told(name: str, change: Change = as_it_was) -> Iterator[Recorded]:
    """A golden log, with events changed or left out."""
    for message in LogFile(LOGS / f"{name}.ndjson").messages():
        if (changed := change(codec.decode(message.data, message.sequence))) is not None:
            yield changed


def summary(name: str, change: Change = as_it_was) -> MigrationSummary:
    found = MigrationSummary(id="m")
    for recorded in told(name, change):
        found = fold(found, recorded)
    return found


def restarted_meanwhile(recorded: Recorded) -> Recorded:
    """The source's service died in the stun: what it is when it is back has not seen it."""
    if not isinstance(recorded.event, ev.MigrationAbandoned):
        return recorded
    return Recorded(recorded.envelope, msgspec.structs.replace(recorded.event, stun_ns=0))


def restarted(recorded: Recorded) -> Recorded:
    """As the source's service says after its restart, and the coordinator after it."""
    if not isinstance(recorded.event, ev.MigrationAbandoned | ev.MigrationEnded):
        return recorded
    reason = ev.AbortReason.SERVICE_RESTARTED
    event = msgspec.structs.replace(recorded.event, reason=reason)
    return restarted_meanwhile(Recorded(recorded.envelope, event))


def killed_before_it_told(recorded: Recorded) -> Recorded | None:
    """The source's service died when it had paused the machine, and before it said so."""
    if isinstance(recorded.event, ev.MachineStunned | ev.FinalCopySent | ev.MachineTakenBack):
        return None
    return restarted(recorded)


def without_go(recorded: Recorded) -> Recorded | None:
    """The destination was ordered to run the machine, with proof that the source's host is off."""
    if isinstance(recorded.event, ev.GoGiven):
        return None
    if isinstance(recorded.event, ev.ActivationStarted):
        return Recorded(recorded.envelope, ev.ActivationStarted(go_heard_ns=0))
    return recorded


def measured_wrong(recorded: Recorded) -> Recorded:
    """By so much that what was heard would come before it was said."""
    return measured(recorded, off_by_ns=10_000_000)


def until_stunned(recorded: Recorded) -> Recorded | None:
    is_later = isinstance(recorded.event, ev.MigrationEnded | ev.MachineActivated)
    return None if is_later else recorded


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("v1-completed", as_it_was, "16.440 ms"),
        ("v1-completed", on_two_computers, "not known: the two hosts have no clock in common"),
        ("v1-completed", measured, "16.440 ms ± 80 µs"),
        ("v1-completed", measured_wrong, "not known: the two hosts have no clock in common"),
        ("v1-completed", until_stunned, "it is stunned"),
        ("v1-aborted", as_it_was, "none"),
        ("v1-rolled-back", as_it_was, "38.049 ms"),
        (
            "v1-rolled-back",
            restarted_meanwhile,
            "not known: the source's service was restarted meanwhile",
        ),
        (
            "v1-rolled-back",
            killed_before_it_told,
            "not known: the source's service was restarted meanwhile",
        ),
        ("v1-aborted", restarted, "none"),
        (
            "v1-in-doubt",
            as_it_was,
            "it was stunned; whether it runs on host-1 cannot be proven",
        ),
    ],
)
def test_a_stun_is_told_and_why_it_is_not_known(name: str, change: Change, expected: str) -> None:
    assert stun(summary(name, change)) == expected


def failed_in_the_stun(recorded: Recorded) -> Recorded:
    """The source found the guest dead when it would have let it go on."""
    if not isinstance(recorded.event, ev.MigrationAbandoned | ev.MigrationEnded):
        return recorded
    reason = ev.AbortReason.MACHINE_FAILED
    event = msgspec.structs.replace(recorded.event, reason=reason)
    return restarted_meanwhile(Recorded(recorded.envelope, event))


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("v1-aborted", as_it_was, "none"),
        ("v1-rolled-back", as_it_was, "38.049 ms"),
        (
            "v1-rolled-back",
            killed_before_it_told,
            "not known: the source's service was restarted meanwhile",
        ),
        (
            "v1-rolled-back",
            failed_in_the_stun,
            "not known: it was stunned, and no host has said that it runs since",
        ),
    ],
)
def test_once_the_source_has_kept_the_machine_its_stun_is_told_as_it_will_be_at_the_end(
    name: str, change: Change, expected: str
) -> None:
    def not_ended_yet(recorded: Recorded) -> Recorded | None:
        return None if isinstance(recorded.event, ev.MigrationEnded) else change(recorded)

    assert stun(summary(name, not_ended_yet)) == stun(summary(name, change)) == expected


def test_the_page_says_the_same() -> None:
    file = LogFile(LOGS / "v1-in-doubt.ndjson")
    migration, messages = file.head().of, list(file.messages())
    text = page(timeline(migration, messages), verify(migration, messages), None)
    assert "<dd>it was stunned; whether it runs on host-1 cannot be proven</dd>" in text


@pytest.mark.parametrize(
    ("name", "change", "never"),
    [
        ("v1-aborted", as_it_was, True),
        ("v1-rolled-back", as_it_was, False),
        ("v1-rolled-back", restarted_meanwhile, False),
        ("v1-rolled-back", killed_before_it_told, False),
        ("v1-aborted", restarted, True),
    ],
)
def test_only_what_was_not_stunned_is_said_never_to_have_stopped(
    name: str, change: Change, never: bool
) -> None:
    narrator = Narrator()
    sentences = [narrator.tell(recorded) for recorded in told(name, change)]
    (kept,) = [each for each in sentences if "keeps the machine" in each]
    assert kept.endswith("It never stopped") is never
    seen_from_the_middle = Narrator()
    late = [each for each in told(name, change) if each.envelope.lane is Lane.SOURCE][-2:]
    assert not any("never stopped" in seen_from_the_middle.tell(each) for each in late)


def test_a_stun_is_taken_apart_only_if_each_instant_is_known_and_in_order() -> None:
    whole = summary("v1-completed").marks
    assert tuple(whole.components_ns()) == STUN_PARTS
    ordered = summary("v1-completed", without_go).marks
    assert ordered.stun_ns() == whole.stun_ns()
    assert ordered.components_ns() == {}
    assert {"go", "activate", "staged"}.isdisjoint(ordered.parts_ns())
    backwards = msgspec.structs.replace(whole, staged_heard_ns=whole.staged_ns - 1)
    assert backwards.components_ns() == {}


@pytest.mark.parametrize("off_by_ns", [-ERROR_NS, 0, ERROR_NS])
def test_between_two_computers_a_stun_is_what_it_was_within_the_error(off_by_ns: int) -> None:
    was = summary("v1-completed").marks
    marks = summary("v1-completed", lambda each: measured(each, off_by_ns)).marks
    found_ns, was_ns = marks.stun_ns(), was.stun_ns()
    assert found_ns is not None
    assert was_ns is not None
    assert abs(found_ns - was_ns) <= marks.error_ns() <= ERROR_NS
    assert sum(marks.components_ns().values()) == found_ns
    for part, part_ns in was.components_ns().items():
        error_ns = marks.error_ns() if part in BETWEEN_HOSTS else 0
        assert abs(marks.components_ns()[part] - part_ns) <= error_ns


def test_what_was_heard_after_it_was_said_narrows_what_was_measured() -> None:
    marks = summary("v1-completed", measured).marks
    loose = msgspec.structs.replace(marks, clock_error_ns=10**12)
    clock = loose.clock()
    assert clock is not None
    assert abs(clock.offset_ns - AHEAD_NS) <= clock.error_ns
    assert clock.error_ns < 1_100_000, "half of what STAGED and the last pages took"
    assert loose.stun_ns() == sum(loose.components_ns().values())


def test_parts_between_two_computers_are_told_with_their_error_or_not_at_all() -> None:
    parts = dict(stun_parts(summary("v1-completed", measured)))
    assert tuple(parts) == STUN_PARTS
    assert (parts["copy"], parts["go"]) == ("5.548 ms", "1.010 ms ± 80 µs")
    untold = dict(stun_parts(summary("v1-completed", on_two_computers)))
    assert set(STUN_PARTS) - set(untold) == set(BETWEEN_HOSTS)


def test_what_is_known_of_a_stun_that_was_taken_back_is_told() -> None:
    parts = dict(stun_parts(summary("v1-rolled-back")))
    assert (parts["freeze"], parts["scan"], parts["copy"]) == ("5.347 ms", "1.160 ms", "4.337 ms")
    assert parts["the rest"] == "25.050 ms, until it ran on at its source"
    assert dict(stun_parts(summary("v1-aborted"))) == {}


def test_programs_are_told_the_error_too() -> None:
    told = as_json(summary("v1-completed", measured))
    assert (told["stun_ms"], told["stun_error_ms"]) == (16.44, 0.08)
    assert as_json(summary("v1-completed"))["stun_error_ms"] == 0.0
    assert as_json(summary("v1-completed", on_two_computers))["stun_error_ms"] is None


def test_the_story_says_how_far_into_the_stun_the_other_computer_was() -> None:
    narrator = Narrator()
    sentences = [narrator.tell(recorded) for recorded in told("v1-completed", measured)]
    assert any(each.endswith("It stood still for 16.4 ms ± 80 µs") for each in sentences)
    marks = summary("v1-completed", measured).marks
    assert marks.into_ns("another", marks.first_step_ns) == marks.stun_ns()
    assert marks.into_ns(marks.source_boot, marks.stopped_ns) == 0
    assert marks.into_ns("a third", marks.first_step_ns) is None
