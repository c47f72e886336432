"""What stands beside the migrations is held to its chains, and the register to its steps."""

from __future__ import annotations

from functools import cache

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from godwit_protocol import register as reg
from godwit_protocol import subjects
from godwit_protocol.register import RegisterRecord, RegisterValue
from godwit_protocol.replay.beside import verify_beside
from godwit_protocol.replay.stories import migration_of
from godwit_protocol.stored import Stored
from recorded_logs import simulated

SEEDS = (1, 3, 8, 25)


@cache
def beside(seed: int = 25) -> tuple[Stored, ...]:
    """All that is no migration's."""
    return tuple(each for each in simulated(seed) if not migration_of(each.subject))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_logged_verifies_whatever_broke(seed: int) -> None:
    found = verify_beside(simulated(seed))
    assert found.events == len(beside(seed)) > 10
    assert found.faults == ()


@settings(max_examples=30)
@given(st.data())
def test_an_event_that_is_altered_doubled_or_moved_is_found(data: st.DataObject) -> None:
    whole = beside()
    index = data.draw(st.integers(0, len(whole) - 1))
    message, changed = whole[index], list(whole)
    match data.draw(st.sampled_from(("other subject", "doubled", "no event"))):
        case "other subject":
            moved = message.subject.replace(".machine.", ".machine.x").replace(
                ".inventory.", ".inventory.x"
            )
            changed[index] = msgspec.structs.replace(message, subject=moved)
        case "doubled":
            changed.append(msgspec.structs.replace(message, sequence=whole[-1].sequence + 1))
        case _:
            changed[index] = msgspec.structs.replace(message, data=b"\xc1")
    assert verify_beside(changed).faults


def values(*records: RegisterRecord) -> list[Stored]:
    return [
        Stored(subjects.register("m"), sequence, 0, reg.encode(record))
        for sequence, record in enumerate(records, start=1)
    ]


FIRST = reg.started("m", "host-1", None)
MOVED = reg.moved(FIRST, "host-2", "a")
INTENDED = reg.abort_intended(MOVED, "b")
BACK = reg.taken_back(INTENDED, "b")
STOPPED = reg.stopped(BACK)
AGAIN = reg.started("m", "host-3", STOPPED)
COURSE = (FIRST, MOVED, INTENDED, BACK, STOPPED, AGAIN)


def test_a_register_goes_on_by_the_steps_that_there_are() -> None:
    found = verify_beside(values(*COURSE))
    assert (found.values, found.faults) == (len(COURSE), ())


@pytest.mark.parametrize("place", range(len(COURSE)))
def test_a_register_that_goes_back_or_repeats_itself_is_found(place: int) -> None:
    for again in range(place + 1):
        assert verify_beside(values(*COURSE[: place + 1], COURSE[again])).faults


@pytest.mark.parametrize(
    "wrong",
    [
        msgspec.structs.replace(BACK, epoch=BACK.epoch + 1),
        msgspec.structs.replace(BACK, value=RegisterValue.STOPPED),
        msgspec.structs.replace(BACK, machine="other"),
        msgspec.structs.replace(INTENDED, owner="host-9"),
    ],
)
def test_a_value_that_no_step_gives_is_found(wrong: RegisterRecord) -> None:
    after = (FIRST, MOVED) if wrong.value is RegisterValue.ABORT_INTENDED else (*COURSE[:3],)
    assert verify_beside(values(*after, wrong)).faults


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((FIRST, MOVED), msgspec.structs.replace(FIRST, owner="host-3", epoch=3)),
        (COURSE[:5], msgspec.structs.replace(MOVED, epoch=STOPPED.epoch + 1)),
        (COURSE[:5], msgspec.structs.replace(BACK, epoch=STOPPED.epoch + 1)),
    ],
)
def test_only_a_machine_that_nobody_owns_is_started_and_none_such_goes_on(
    before: tuple[RegisterRecord, ...], after: RegisterRecord
) -> None:
    """Two would own it by the first."""
    assert verify_beside(values(*before)).faults == ()
    assert verify_beside(values(*before, after)).faults


def test_what_a_host_wrote_again_may_jump() -> None:
    lost = msgspec.structs.replace(BACK, nonce=f"{BACK.nonce}/over 1")
    assert verify_beside(values(FIRST, lost)).faults == ()
    assert verify_beside(values(*COURSE, lost)).faults
    unreadable = Stored(subjects.register("m"), 1, 0, b"\xc1")
    assert verify_beside([unreadable]).faults
