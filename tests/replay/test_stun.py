"""What is said of a stun is so, also where nobody measured it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from godwit.pictures.narrative import Narrator
from godwit.pictures.report import page
from godwit.pictures.stun import stun
from godwit.runtime.log_file import LogFile
from godwit_protocol import codec
from godwit_protocol.events import Lane, Recorded
from godwit_protocol.events import migration as ev
from godwit_protocol.projections import STUN_PARTS, MigrationSummary, fold
from godwit_protocol.replay.timeline import timeline
from godwit_protocol.replay.verification import verify

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


def of_two_computers(recorded: Recorded) -> Recorded:
    boot = recorded.envelope.host
    return Recorded(msgspec.structs.replace(recorded.envelope, boot=boot), recorded.event)


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


def until_stunned(recorded: Recorded) -> Recorded | None:
    is_later = isinstance(recorded.event, ev.MigrationEnded | ev.MachineActivated)
    return None if is_later else recorded


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("v1-completed", as_it_was, "16.4 ms"),
        ("v1-completed", of_two_computers, "not known: the two hosts have no clock in common"),
        ("v1-completed", until_stunned, "it is stunned"),
        ("v1-aborted", as_it_was, "none"),
        ("v1-rolled-back", as_it_was, "38.0 ms"),
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
