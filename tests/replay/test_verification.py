"""What was logged verifies, whatever broke meanwhile; what was changed since does not."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from godwit.runtime.clock import SystemClock
from godwit.runtime.lane import LaneWriter, Scope
from godwit.runtime.log_file import LogFile
from godwit_protocol import codec, subjects
from godwit_protocol.convergence import Decision
from godwit_protocol.errors import CorruptError, InvalidInputError
from godwit_protocol.events import CHAIN_START, Event, Lane, stored_hash
from godwit_protocol.events import migration as ev
from godwit_protocol.events.machine import MachineFailed
from godwit_protocol.replay import lines
from godwit_protocol.replay.chains import note, parse_noted
from godwit_protocol.replay.stories import Story
from godwit_protocol.replay.timeline import timeline
from godwit_protocol.replay.verification import UNENDED, UNHELD, verify
from godwit_protocol.stored import Stored
from recorded_logs import simulated, stories_of

ENDINGS = {ev.MachineActivated.TYPE, ev.MachineTakenBack.TYPE}
MIGRATIONS_MIN, SEEDS_MAX = 100, 60
LOGS = Path(__file__).parents[1] / "golden" / "logs"


@cache
def recorded() -> tuple[Story, ...]:
    """Of so many seeds that machines have moved in them, and been taken back."""
    found: list[Story] = []
    missing = set(ENDINGS)
    for seed in range(1, SEEDS_MAX):
        if len(found) > MIGRATIONS_MIN and not missing:
            break
        missing -= {codec.decode(message.data).envelope.type for message in simulated(seed)}
        found += stories_of(simulated(seed))
    assert not missing
    return tuple(found)


@cache
def richest() -> Story:
    return max(recorded(), key=lambda story: len(story.messages))


def resealed(messages: list[Stored], index: int, event: ev.RoundCompleted) -> list[Stored]:
    """The log with another event at ``index``, and every hash after it in its lane made to fit."""
    changed = list(messages)
    lane = [
        place
        for place, message in enumerate(messages)
        if codec.decode(message.data).envelope.lane is Lane.SOURCE
    ]
    last = CHAIN_START
    for place in lane:
        envelope = codec.decode(messages[place].data).envelope
        body = codec.encode_body(event) if place == index else envelope.body
        data = codec.encode(msgspec.structs.replace(envelope, body=body, prev_hash=last))
        changed[place] = msgspec.structs.replace(messages[place], data=data)
        last = stored_hash(data)
    return changed


def test_every_simulated_migration_verifies_whatever_was_broken() -> None:
    found = [verify(*story) for story in recorded()]
    assert len(found) > MIGRATIONS_MIN
    assert [(each.migration, *each.faults) for each in found if each.faults] == []


def test_a_decision_that_the_core_does_not_make_is_named() -> None:
    migration, messages = richest()
    index, envelope, event = next(
        (index, decoded.envelope, decoded.event)
        for index, message in enumerate(messages)
        if isinstance((decoded := codec.decode(message.data)).event, ev.RoundCompleted)
    )
    assert isinstance(event, ev.RoundCompleted)
    otherwise = Decision.STUN if event.decision is Decision.ANOTHER_ROUND else Decision.GIVE_UP
    other = msgspec.structs.replace(event, decision=otherwise)
    found = verify(migration, resealed(messages, index, other))
    told = [str(fault) for fault in found.faults]
    assert f"round_completed {event.figures.round} ({otherwise}" in told[0], envelope


def until_staged(staged_ns: int) -> tuple[str, list[Stored]]:
    """A real move until its image was staged, when the destination's clock stood at ``staged_ns``.
    The destination's events after that are gone; those of the source stay.
    """
    file = LogFile(LOGS / "v1-completed.ndjson")
    messages: list[Stored] = []
    is_staged = False
    for message in file.messages():
        envelope = codec.decode(message.data).envelope
        if envelope.type == ev.ImageStaged.TYPE:
            is_staged = True
            data = codec.encode(msgspec.structs.replace(envelope, monotonic_ns=staged_ns))
            messages.append(msgspec.structs.replace(message, data=data))
        elif envelope.lane is Lane.SOURCE or not is_staged:
            messages.append(message)
    return file.head().of, messages


def with_doubt(messages: list[Stored], boot: str, now_ns: int) -> list[Stored]:
    """The destination waits for GO in vain, and says so; its host may have been booted since."""
    event = ev.DoubtRaised(message="the image is whole, and no GO comes")
    last = next(each for each in reversed(messages) if each.subject.endswith(ev.ImageStaged.TYPE))
    before = codec.decode(last.data).envelope
    envelope = msgspec.structs.replace(
        before,
        id=SystemClock().new_id(),
        type=event.TYPE,
        lane_sequence=before.lane_sequence + 1,
        causation=before.id,
        boot=boot or before.boot,
        monotonic_ns=now_ns,
        prev_hash=stored_hash(last.data),
        body=codec.encode_body(event),
    )
    subject = subjects.migration(before.migration, Lane.DESTINATION, event.TYPE)
    sequence = messages[-1].sequence + 1
    return [*messages, Stored(subject, sequence, last.time_ns, codec.encode(envelope), {})]


DAY_NS = 24 * 3600 * 10**9


@pytest.mark.timeout(60)
def test_what_a_host_says_after_it_was_booted_is_explained_by_its_restart() -> None:
    migration, messages = until_staged(10 * DAY_NS)
    rebooted = with_doubt(messages, "another boot", 75 * 10**9)
    assert verify(migration, rebooted).faults == ()
    (step,) = [
        each.step
        for each in timeline(migration, rebooted).moments
        if isinstance(each.recorded.event, ev.DoubtRaised)
    ]
    assert step is not None
    assert step.restarted


@pytest.mark.timeout(60)
@pytest.mark.parametrize("staged_ns", [10 * DAY_NS, 2**63])
def test_a_clock_that_goes_back_keeps_nobody_searching_for_ever(staged_ns: int) -> None:
    """A log may say anything; whoever verifies it comes to an end."""
    migration, messages = until_staged(staged_ns)
    changed = with_doubt(messages, "", 75 * 10**9)
    assert verify(migration, changed).events == len(changed)


RUN_THERE = ("cli-x", Lane.OPERATOR, ev.RunOrdered(target="host-2"))
NOTHING_RUNS = ("host-1", Lane.SOURCE, MachineFailed(message="the VMM is dead"))
IS_OFF = ("host-2", Lane.DESTINATION, ev.HostFenced(target="host-1", vouched_by="ada@desk"))
RUNS_THERE = (
    "host-2",
    Lane.DESTINATION,
    ev.MachineActivated(register_sequence=9, owned_ns=1, first_step_ns=1),
)


@pytest.mark.parametrize(
    ("said", "is_wrong"),
    [
        ([RUNS_THERE], True),
        ([RUN_THERE, RUNS_THERE], True),
        ([NOTHING_RUNS, RUNS_THERE], True),
        ([IS_OFF, RUNS_THERE], True),
        ([RUNS_THERE, NOTHING_RUNS, RUN_THERE], True),
        ([NOTHING_RUNS, RUN_THERE, RUNS_THERE], False),
        ([RUN_THERE, IS_OFF, RUNS_THERE], False),
    ],
)
def test_only_an_operator_has_a_machine_run_elsewhere_that_was_taken_back(
    said: list[tuple[str, Lane, Event]], is_wrong: bool
) -> None:
    """And only when nothing can run any more where it was."""
    file = LogFile(LOGS / "v1-rolled-back.ndjson")
    messages = list(file.messages())
    for host, lane, event in said:
        scope = Scope.of_migration(file.head().of, "m")
        sealed = LaneWriter(SystemClock(), lane, host, scope).seal(event)
        sequence = messages[-1].sequence + 1
        messages.append(Stored(sealed.subject, sequence, 0, sealed.data, {}))
    told = [str(fault) for fault in verify(file.head().of, messages).faults]
    assert any("activated and taken back, both" in each for each in told) is is_wrong


def test_one_that_goes_on_is_not_wrong_and_not_proven() -> None:
    migration, messages = richest()
    ended = next(
        index
        for index, message in enumerate(messages)
        if message.subject.endswith(ev.MigrationEnded.TYPE)
    )
    found = verify(migration, messages[:ended])
    assert not found.faults
    assert UNENDED in found.unproven


@settings(max_examples=25)
@given(st.data())
def test_any_event_is_missed_if_altered_dropped_doubled_swapped_or_put_in(
    data: st.DataObject,
) -> None:
    migration, messages = richest()
    noted = note(messages)
    assert verify(migration, messages, noted).is_whole
    index = data.draw(st.integers(0, len(messages) - 1))
    message, changed = messages[index], list(messages)
    match data.draw(st.sampled_from(("altered", "dropped", "doubled", "swapped", "put in"))):
        case "altered":
            raw = bytearray(message.data)
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
            changed[index] = msgspec.structs.replace(message, data=bytes(raw))
        case "dropped":
            del changed[index]
        case "doubled":
            changed.append(msgspec.structs.replace(message, sequence=messages[-1].sequence + 1))
        case "swapped":
            other = data.draw(st.integers(0, len(messages) - 1).filter(lambda at: at != index))
            sequence, later = message.sequence, messages[other].sequence
            changed[index] = msgspec.structs.replace(messages[other], sequence=sequence)
            changed[other] = msgspec.structs.replace(message, sequence=later)
        case _:
            changed.insert(index, cancel(migration, message.sequence))
    assert verify(migration, changed, noted).faults


def cancel(migration: str, sequence: int) -> Stored:
    """What nobody asked for, in a whole chain of its own."""
    writer = LaneWriter(SystemClock(), Lane.OPERATOR, "cli-x", Scope.of_migration(migration, "m"))
    sealed = writer.seal(ev.CancelRequested())
    return Stored(sealed.subject, sequence, 0, sealed.data, {})


def test_without_a_digest_only_the_ends_of_lanes_are_open() -> None:
    migration, messages = richest()
    assert verify(migration, messages).unproven == (UNHELD,)
    keys = [(e.lane, e.host) for e in (codec.decode(m.data).envelope for m in messages)]
    held = [index for index, key in enumerate(keys) if key in keys[index + 1 :]]
    for index in held:
        assert verify(migration, messages[:index] + messages[index + 1 :]).faults


def test_a_digest_is_read_as_it_was_written() -> None:
    noted = note(richest().messages)
    assert parse_noted(str(noted)) == noted
    for text in ("", "7", "x:00", "0:" + "00" * 32, "3:00"):
        with pytest.raises(InvalidInputError, match="is no digest"):
            parse_noted(text)


def test_a_line_says_what_it_was_made_of_whatever_it_holds() -> None:
    odd = Stored(
        subject="s", sequence=1, time_ns=2, data=b"\xc1\x00,", headers={"event": '","event":'}
    )
    both = [odd, Stored(subject="s", sequence=1, time_ns=2, data=b"\x80")]
    encoded = b"".join(map(lines.encode_line, both))
    assert lines.decode_lines(encoded, 2) == lines.decode_lines(encoded[:-1], 2) == both


@pytest.mark.parametrize("broken", [b'{"subject":"s"}', b"", b"\xff", b"[" * 10_000])
def test_a_line_that_cannot_be_read_is_named_among_many(broken: bytes) -> None:
    line = lines.encode_line(Stored(subject="s", sequence=1, time_ns=2, data=b""))
    for told in (broken + b"\n" + line, broken + b"\n", line[:-1] + line):
        with pytest.raises(CorruptError, match="line 7 "):
            lines.decode_lines(line * 2 + told, 5)
