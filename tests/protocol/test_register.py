"""The register: which value may follow which, and that no value can be mistaken for another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit_protocol import register as reg
from godwit_protocol.errors import LocalProtocolError
from godwit_protocol.register import RegisterRecord, RegisterValue

HOSTS = ("host-1", "host-2")
Succession = Callable[[RegisterRecord, str], RegisterRecord]
SUCCESSIONS: dict[str, Succession] = {
    "stopped": lambda record, _migration: reg.stopped(record),
    "moved": lambda record, migration: reg.moved(record, "host-2", migration),
    "taken_back": reg.taken_back,
    "abort_intended": reg.abort_intended,
}
LEGAL = {
    "stopped": {RegisterValue.STARTED, RegisterValue.TAKEN_BACK, RegisterValue.MOVED},
    "moved": {RegisterValue.STARTED, RegisterValue.TAKEN_BACK, RegisterValue.MOVED},
    "abort_intended": {RegisterValue.STARTED, RegisterValue.TAKEN_BACK, RegisterValue.MOVED},
    "taken_back": {
        RegisterValue.STARTED,
        RegisterValue.TAKEN_BACK,
        RegisterValue.MOVED,
        RegisterValue.ABORT_INTENDED,
    },
}


def record_of(value: RegisterValue) -> RegisterRecord:
    return RegisterRecord(value=value, machine="m1", owner="host-1", epoch=7, migration="old")


@pytest.mark.parametrize("value", RegisterValue)
@pytest.mark.parametrize("name", SUCCESSIONS)
def test_each_value_may_follow_only_those_it_may(value: RegisterValue, name: str) -> None:
    succeed = SUCCESSIONS[name]
    if value in LEGAL[name]:
        after = succeed(record_of(value), "new")
        assert after.machine == "m1"
        assert after.epoch in (7, 8)
    else:
        with pytest.raises(LocalProtocolError, match="m1"):
            succeed(record_of(value), "new")


@pytest.mark.parametrize("value", RegisterValue)
def test_only_an_owner_may_run_it(value: RegisterValue) -> None:
    record = record_of(value)
    owned = value not in (RegisterValue.ABORT_INTENDED, RegisterValue.STOPPED)
    assert reg.may_run(record, "host-1") == owned
    assert not reg.may_run(record, "host-2")
    assert not reg.may_run(None, "host-1")


def test_the_epoch_grows_with_the_owner_and_with_nothing_else() -> None:
    first = reg.started("m1", "host-1", None)
    assert (first.epoch, first.owner) == (1, "host-1")
    moved = reg.moved(first, "host-2", "a")
    assert (moved.epoch, moved.owner) == (2, "host-2")
    intended = reg.abort_intended(moved, "b")
    assert (intended.epoch, intended.owner) == (2, "host-2")
    back = reg.taken_back(intended, "b")
    assert (back.epoch, back.owner) == (3, "host-2")
    gone = reg.stopped(back)
    assert (gone.epoch, gone.owner) == (3, "host-2")
    assert reg.started("m1", "host-1", gone).epoch == 4


@given(st.lists(st.tuples(st.sampled_from(sorted(SUCCESSIONS)), st.sampled_from(HOSTS))))
def test_over_any_life_epochs_only_grow_and_nonces_never_come_again(
    life: list[tuple[str, str]],
) -> None:
    record = reg.started("m1", "host-1", None)
    records = [record]
    for number, (name, host) in enumerate(life):
        if record.value is RegisterValue.STOPPED:
            record = reg.started("m1", host, record)
        elif record.value is RegisterValue.ABORT_INTENDED and name != "taken_back":
            continue
        else:
            record = SUCCESSIONS[name](record, f"migration-{number}")
        records.append(record)
    epochs = [each.epoch for each in records]
    assert epochs == sorted(epochs)
    assert len({each.nonce for each in records}) == len(records)


def test_a_writer_that_tries_again_writes_the_same_nonce() -> None:
    current = reg.started("m1", "host-1", None)
    assert reg.moved(current, "host-2", "a") == reg.moved(current, "host-2", "a")
    nonces = {
        reg.moved(current, "host-2", "a").nonce,
        reg.moved(current, "host-2", "b").nonce,
        reg.moved(current, "host-3", "a").nonce,
        reg.taken_back(current, "a").nonce,
        reg.abort_intended(current, "a").nonce,
        reg.moved(reg.taken_back(current, "a"), "host-2", "a").nonce,
        current.nonce,
    }
    assert len(nonces) == 7
