"""What was logged verifies, whatever broke meanwhile; what was changed since does not."""

from __future__ import annotations

import dataclasses
from functools import cache

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from godwit.runtime.event_log import Stored
from godwit_protocol import codec
from godwit_protocol.convergence import Decision
from godwit_protocol.events import CHAIN_START, Lane, stored_hash
from godwit_protocol.events import migration as ev
from godwit_protocol.replay.stories import Story
from godwit_protocol.replay.verification import UNENDED, verify
from recorded_logs import simulated, stories_of

SEEDS = (1, 3, 8, 25)


@cache
def recorded() -> tuple[Story[Stored], ...]:
    return tuple(story for seed in SEEDS for story in stories_of(simulated(seed)))


@cache
def richest() -> Story[Stored]:
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
        changed[place] = dataclasses.replace(messages[place], data=data)
        last = stored_hash(data)
    return changed


def test_every_simulated_migration_verifies_whatever_was_broken() -> None:
    found = [verify(*story) for story in recorded()]
    assert len(found) > 100
    assert [(each.migration, *each.faults) for each in found if each.faults] == []
    types = {
        codec.decode(message.data).envelope.type for _, story in recorded() for message in story
    }
    assert {ev.MachineActivated.TYPE, ev.MachineTakenBack.TYPE} <= types


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


def held_by_a_chain(messages: list[Stored]) -> list[int]:
    """Where events stand whose hash a later one of their lane carries."""
    lanes = [codec.decode(message.data).envelope for message in messages]
    keys = [(envelope.lane, envelope.host) for envelope in lanes]
    return [index for index, key in enumerate(keys) if key in keys[index + 1 :]]


@settings(max_examples=40)
@given(st.data())
def test_any_event_that_a_chain_holds_is_missed_if_altered_dropped_or_doubled(
    data: st.DataObject,
) -> None:
    migration, messages = richest()
    index = data.draw(st.sampled_from(held_by_a_chain(messages)))
    message, changed = messages[index], list(messages)
    match data.draw(st.sampled_from(("altered", "dropped", "doubled", "swapped"))):
        case "altered":
            raw = bytearray(message.data)
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
            changed[index] = dataclasses.replace(message, data=bytes(raw))
        case "dropped":
            del changed[index]
        case "doubled":
            after = messages[-1].sequence + 1
            changed.append(dataclasses.replace(message, sequence=after))
        case _:
            lane = codec.decode(message.data).envelope.lane
            other = next(
                place
                for place in range(index + 1, len(messages))
                if codec.decode(messages[place].data).envelope.lane is lane
            )
            changed[index] = dataclasses.replace(messages[other], sequence=message.sequence)
            changed[other] = dataclasses.replace(message, sequence=messages[other].sequence)
    assert verify(migration, changed).faults
