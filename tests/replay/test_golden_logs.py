"""Logs of every schema version, from real runs: today's code reads and decides them alike.

Recorded by ``tests/chaos/record_logs.py``; what is there is never recorded anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
import pytest

from godwit.cli.replay_otherwise import setting_of, settings_of
from godwit.runtime.log_file import LogFile
from godwit.runtime.signing import is_signed
from godwit_protocol import codec
from godwit_protocol.convergence import Decision, DecisionReason
from godwit_protocol.errors import InvalidInputError
from godwit_protocol.estimation.policies import Policy
from godwit_protocol.events import Lane, UnknownEvent
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import Outcome
from godwit_protocol.replay.instant import instant
from godwit_protocol.replay.signatures import Trust, parse_trusted
from godwit_protocol.replay.timeline import timeline
from godwit_protocol.replay.verification import UNENDED, UNHELD, verify
from godwit_protocol.replay.what_if import Move, as_recorded, recorded_move, what_if
from godwit_protocol.roles import coordinator, destination, source_state
from godwit_protocol.stored import Stored
from recorded_logs import in_file

LOGS: Final = Path(__file__).parents[1] / "golden" / "logs"
OUTCOMES: Final = {
    "v1-completed": (Outcome.COMPLETED, source_state.Phase.RELEASING, destination.Phase.ACTIVE),
    "v1-signed": (Outcome.COMPLETED, source_state.Phase.RELEASING, destination.Phase.ACTIVE),
    "v1-aborted": (Outcome.ABORTED, source_state.Phase.ABANDONED, destination.Phase.DISCARDED),
    "v1-rolled-back": (Outcome.ABORTED, source_state.Phase.ABANDONED, destination.Phase.DISCARDED),
    # The source's process was stopped for 7 s between a step and the event that it wrote of it.
    "v1-slept-while-staging": (
        Outcome.ABORTED,
        source_state.Phase.ABANDONED,
        destination.Phase.DISCARDED,
    ),
    "v1-in-doubt": (
        Outcome.IN_DOUBT,
        source_state.Phase.AWAITING_QUARANTINE,
        destination.Phase.PREPARED,
    ),
}


def golden(name: str) -> tuple[str, list[Stored]]:
    path = LOGS / f"{name}.ndjson"
    return LogFile(path).head().of, in_file(path)


def move_of(name: str) -> Move:
    migration, messages = golden(name)
    move = recorded_move(migration, [codec.decode(each.data, each.sequence) for each in messages])
    assert move is not None
    return move


def test_there_is_a_story_for_each_log() -> None:
    assert {path.stem for path in LOGS.iterdir()} == set(OUTCOMES)


@pytest.mark.parametrize("name", OUTCOMES)
def test_every_event_is_still_what_the_core_writes(name: str) -> None:
    found = verify(*golden(name))
    assert not found.faults, "\n".join(map(str, found.faults))
    in_doubt = OUTCOMES[name][0] is Outcome.IN_DOUBT
    assert found.unproven == ((UNHELD, UNENDED) if in_doubt else (UNHELD,))


def test_what_was_signed_is_proven_by_keys_that_were_kept_elsewhere() -> None:
    migration, messages = golden("v1-signed")
    keys = parse_trusted((LOGS.parent / "v1-signed.keys").read_text())
    trust = Trust(is_signed=is_signed, keys=keys)
    found = verify(migration, messages, trust=trust)
    assert found.is_whole, (found.faults, found.unproven)
    assert "\n".join(found.proven).count("by a trusted key") >= 4
    assert not verify(migration, messages[:-1], trust=trust).is_whole


@pytest.mark.parametrize("name", OUTCOMES)
def test_the_story_ends_where_it_did(name: str) -> None:
    migration, messages = golden(name)
    told = timeline(migration, messages)
    outcome, of_source, of_destination = OUTCOMES[name]
    assert told.summary.outcome is outcome
    assert not any(isinstance(each.recorded.event, UnknownEvent) for each in told.moments)
    last = instant(migration, messages, len(messages))
    phases = {role.lane: role.phases[0] for role in last.roles}
    if outcome is not Outcome.IN_DOUBT:
        assert phases[Lane.COORDINATOR] is coordinator.Phase.SETTLING
    assert phases[Lane.SOURCE] is of_source
    assert phases[Lane.DESTINATION] is of_destination


def test_an_instant_says_what_could_come_next() -> None:
    migration, messages = golden("v1-completed")
    intended = next(
        place
        for place, message in enumerate(messages, start=1)
        if message.subject.endswith(ev.StunIntended.TYPE)
    )
    roles = {role.lane: role for role in instant(migration, messages, intended).roles}
    source = roles[Lane.SOURCE]
    assert source.phases == (source_state.Phase.INTENDING,)
    legal = {given.__name__: leads_to for given, leads_to in source.legal}
    assert legal["Appended"] == (source_state.Phase.PAUSING,)
    assert "RoundDone" not in legal
    assert instant(migration, messages, 0).last is None


@pytest.mark.parametrize("name", OUTCOMES)
def test_the_recorded_settings_give_the_recorded_decisions(name: str) -> None:
    move = move_of(name)
    again = what_if(move, move.setting)
    assert again.rounds == move.summary.rounds
    assert again == as_recorded(move)


def test_another_limit_or_link_changes_what_follows_from_it() -> None:
    move = move_of("v1-aborted")
    assert move.summary.rounds[-1].decision is Decision.ANOTHER_ROUND
    wide = what_if(move, setting_of(move, {"stun_limit": "1s"}))
    assert (wide.decision, wide.rounds[-1].reason) == (Decision.STUN, DecisionReason.SMALL_ENOUGH)
    assert wide.rounds[0].figures == move.summary.rounds[0].figures
    assert wide.stun_ns is not None
    slow = what_if(move, setting_of(move, {"link": "1Mbit", "rounds_max": "3"}))
    assert slow.recorded_rounds == 0
    assert slow.decision is Decision.GIVE_UP
    assert slow.rounds[0].figures.duration_ns > move.summary.rounds[0].figures.duration_ns
    with pytest.raises(InvalidInputError, match="carries nothing"):
        setting_of(move, {"link": "0Gbit"})
    with pytest.raises(InvalidInputError, match="nothing is called colour"):
        setting_of(move, {"colour": "blue"})


def test_another_deadline_ends_it_when_that_has_passed() -> None:
    move = move_of("v1-aborted")
    first_ns = move.summary.rounds[0].figures.duration_ns
    short = what_if(move, setting_of(move, {"deadline": f"{first_ns // 2}ns"}))
    assert (short.too_late, short.stun_ns, len(short.rounds)) == (True, None, 1)
    long = what_if(move, setting_of(move, {"deadline": "1h", "stun_limit": "1s"}))
    assert (long.too_late, long.decision) == (False, Decision.STUN)


@pytest.mark.parametrize("policy", [each for each in Policy if each is not Policy.GODWIT])
def test_anothers_rule_decides_from_the_same_rounds(policy: Policy) -> None:
    """It was cancelled in its fourth round; any of them would have stunned it before."""
    move = move_of("v1-aborted")
    (setting,) = settings_of(move, {"policy": policy.value})
    course = what_if(move, setting)
    assert (course.decision, len(course.rounds), course.recorded_rounds) == (Decision.STUN, 3, 3)
    assert [done.figures for done in course.rounds] == [
        done.figures for done in move.summary.rounds[:3]
    ]
    (never,) = settings_of(move, {"policy": policy.value, "link": "1Mbit", "deadline": "1s"})
    late = what_if(move, never)
    assert (late.too_late, late.stun_ns) == (True, None), "a rule that never gives up is ended"


def test_policies_are_named_once_each_or_all() -> None:
    move = move_of("v1-aborted")
    several = settings_of(move, {"policy": "qemu,nova,qemu"})
    assert [each.policy for each in several] == [Policy.QEMU, Policy.NOVA]
    assert len(settings_of(move, {"policy": "all"})) == len(Policy)
    assert [each.policy for each in settings_of(move, {})] == [Policy.GODWIT]
    with pytest.raises(InvalidInputError, match="no policy is called so"):
        settings_of(move, {"policy": "hope"})


def test_what_is_taken_of_the_guest_is_counted() -> None:
    move = move_of("v1-aborted")
    given = {"policy": "qemu-auto-converge", "link": "1Mbit", "slow_max": "80", "deadline": "1h"}
    (setting,) = settings_of(move, given)
    course = what_if(move, setting)
    assert 0 < course.lost_ns < course.precopy_ns
    assert max(done.slow_percent for done in course.rounds) <= 80


def test_a_decision_that_differs_is_named() -> None:
    """As if today's core decided otherwise than it did then: the event is told."""
    move = move_of("v1-aborted")
    first = move.summary.rounds[0]
    otherwise = msgspec.structs.replace(first, reason=DecisionReason.STILL_SHRINKING)
    migration, messages = golden("v1-aborted")
    place = next(
        index
        for index, message in enumerate(messages)
        if message.subject.endswith(ev.RoundCompleted.TYPE)
    )
    envelope = codec.decode(messages[place].data).envelope
    data = codec.encode(msgspec.structs.replace(envelope, body=codec.encode_body(otherwise)))
    stored = messages[place]
    messages[place] = msgspec.structs.replace(stored, data=data)
    told = "\n".join(map(str, verify(migration, messages).faults))
    assert (
        f"at {stored.sequence}: round_completed 1 (another_round, still_shrinking) is not" in told
    )
