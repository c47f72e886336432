"""The register: which value may follow which, and that no value can be mistaken for another."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
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
    "claimed": lambda record, migration: reg.claimed(record, "host-2", migration),
    "overruled": lambda record, migration: reg.overruled(record, "host-2", migration),
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
    "claimed": set(RegisterValue) - reg.UNOWNED,
    "overruled": set(RegisterValue) - reg.UNOWNED,
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


def test_a_record_says_which_start_and_which_stop_wrote_it() -> None:
    first = reg.started("m1", "host-1", None, "start-1")
    assert first.start == "start-1"
    assert reg.stopped(first, "stop-1").stop == "stop-1"
    assert reg.started("m1", "host-1", None, "start-2").nonce != first.nonce


@pytest.mark.parametrize("value", RegisterValue)
def test_only_an_owner_may_run_it(value: RegisterValue) -> None:
    record = record_of(value)
    owned = value not in (RegisterValue.ABORT_INTENDED, *reg.UNOWNED)
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
    claimed = reg.claimed(intended, "host-1", "b")
    assert (claimed.value, claimed.epoch, claimed.owner) == (RegisterValue.MOVED, 3, "host-1")
    overruled = reg.overruled(moved, "host-1", "b")
    assert (overruled.value, overruled.epoch, overruled.owner) == (
        RegisterValue.TAKEN_BACK,
        3,
        "host-1",
    )


@given(st.lists(st.tuples(st.sampled_from(sorted(SUCCESSIONS)), st.sampled_from(HOSTS))))
def test_over_any_life_epochs_only_grow_and_nonces_never_come_again(
    life: list[tuple[str, str]],
) -> None:
    record = reg.started("m1", "host-1", None)
    records = [record]
    for number, (name, host) in enumerate(life):
        if record.value is RegisterValue.STOPPED:
            record = reg.started("m1", host, record)
        elif record.value is RegisterValue.ABORT_INTENDED and name not in {
            "taken_back",
            "claimed",
            "overruled",
        }:
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


def _view(record: reg.RegisterRecord | None, sequence: int) -> reg.RegisterView:
    return reg.RegisterView(record, sequence)


def test_a_register_has_gone_back_if_it_shows_less_than_was_seen_or_something_else() -> None:
    first = reg.started("m", "host-1", None)
    moved, back = reg.moved(first, "host-2", "now"), reg.taken_back(first, "now")
    seen = _view(moved, 7)
    assert not reg.has_gone_back(seen, reg.NO_REGISTER)
    assert not reg.has_gone_back(seen, seen)
    assert not reg.has_gone_back(_view(reg.abort_intended(moved, "next"), 9), seen)
    assert not reg.has_gone_back(_view(reg.moved(moved, "host-3", "next"), 9), seen)
    assert reg.has_gone_back(reg.NO_REGISTER, seen)
    assert reg.has_gone_back(_view(first, 5), seen)
    assert reg.has_gone_back(_view(reg.abort_intended(first, "now"), 9), seen), "an older epoch"
    assert reg.has_gone_back(_view(back, 9), seen), "an epoch has one owner"
    assert not reg.has_gone_back(_view(moved, 6), seen), "it was written again"
    intended = _view(reg.abort_intended(moved, "next"), 9)
    assert reg.has_gone_back(seen, intended), "the same epoch, but an older record"


def test_only_the_host_that_runs_the_machine_in_that_epoch_may_write_again_what_was_lost() -> None:
    first = reg.started("m", "host-1", None)
    moved, back = reg.moved(first, "host-2", "now"), reg.taken_back(first, "now")
    seen, found = _view(moved, 7), _view(first, 5)
    again = reg.restored(seen, found, "host-2", 2)
    assert again is not None
    assert again.nonce != moved.nonce
    assert msgspec.structs.replace(again, nonce=moved.nonce) == moved
    assert reg.restored(seen, reg.NO_REGISTER, "host-2", 2) is not None
    assert reg.restored(seen, found, "host-1", 2) is None, "it was not given to that host"
    assert reg.restored(seen, found, "host-2", 1) is None, "it does not run in that epoch"
    assert reg.restored(seen, found, "host-2", 3) is None, "it runs in a later one"
    assert reg.restored(seen, _view(back, 9), "host-2", 2) is None, "it is another's by now"
    stopped = _view(reg.stopped(moved), 9)
    assert reg.restored(stopped, seen, "host-2", 2) is None, "it may not run at all"
    assert reg.restored(reg.NO_REGISTER, found, "host-2", 2) is None


def test_what_gave_a_machine_back_that_had_gone_on_by_then_is_written_again() -> None:
    """It ran again in its old epoch, before the service died and the next one took it back."""
    back = reg.taken_back(reg.started("m", "host-1", None), "now")
    seen, found = _view(back, 7), _view(reg.started("m", "host-1", None), 5)
    again = reg.restored(seen, found, "host-1", 1)
    assert again is not None
    assert (again.owner, again.epoch) == ("host-1", 2)


def test_what_gave_a_machine_is_told_from_an_older_record() -> None:
    there = reg.started("m", "host-1", None, "start")
    came = reg.given(there, "host-2", 4, "migration")
    assert came == msgspec.structs.replace(reg.moved(there, "host-2", "migration"), epoch=4)
    intended = reg.abort_intended(there, "migration")
    assert reg.given(intended, "host-2", 2, "migration") == reg.claimed(
        intended, "host-2", "migration"
    )
    kept = reg.given(intended, "host-1", 2, "another")
    assert kept == reg.taken_back(intended, "migration")
    assert reg.given(reg.stopped(there), "host-1", 2, "migration") is None


OURS, FOUND_EPOCH = "ours", 4
STARTED = reg.started("m1", "host-1", None, "start-1")


def standing(value: RegisterValue, epoch: int, migration: str) -> RegisterRecord:
    return msgspec.structs.replace(STARTED, value=value, epoch=epoch, migration=migration)


@pytest.mark.parametrize(
    ("found", "epoch"),
    [
        (None, 6),
        (standing(RegisterValue.STARTED, 4, ""), 6),
        (standing(RegisterValue.MOVED, 4, "an older one"), 6),
        (standing(RegisterValue.ABORT_INTENDED, 4, OURS), 6),
        (standing(RegisterValue.TAKEN_BACK, 5, OURS), 6),
        (standing(RegisterValue.MOVED, 6, OURS), 7),
        (standing(RegisterValue.STARTED, 1, ""), 6),
        (standing(RegisterValue.MOVED, 5, "a later one"), None),
        (standing(RegisterValue.STOPPED, 5, ""), None),
    ],
)
def test_a_machine_that_is_lost_is_nobodys_in_an_epoch_that_nobody_has_had(
    found: RegisterRecord | None, epoch: int | None
) -> None:
    """Whatever the register has lost of what the migration wrote: it wrote no later one than 5."""
    record = reg.lost(found, "m1", OURS, FOUND_EPOCH)
    if epoch is None:
        assert record is None
        return
    assert record is not None
    assert (record.value, record.machine, record.owner) == (RegisterValue.LOST, "m1", "")
    assert (record.epoch, record.migration) == (epoch, "")
    assert record.start == ("" if found is None else "start-1")
    assert reg.is_lost_with(record, OURS) and not reg.is_lost_with(record, "our")
    assert not reg.is_lost_with(reg.moved(STARTED, "host-2", OURS), OURS)
    assert not reg.is_lost_with(found, OURS) and not reg.is_lost_with(None, OURS)
    assert reg.has_gone_on(record, OURS, FOUND_EPOCH)
    assert reg.lost(record, "m1", OURS, FOUND_EPOCH) is None
    assert not any(reg.may_run(record, host) for host in (*HOSTS, ""))
    assert reg.given(record, "host-1", epoch + 1, "") is None
    assert reg.started("m1", "host-3", record).epoch == epoch + 1


def test_where_nothing_is_shown_nothing_is_raised_whatever_was_seen() -> None:
    shown = reg.RegisterView(reg.started("m", "host-1", None), 1)
    seen = reg.RegisterView(msgspec.structs.replace(shown.record, epoch=4), 2)
    assert reg.raised(reg.NO_REGISTER, seen) == reg.NO_REGISTER
    assert reg.raised(shown, reg.NO_REGISTER) == shown
    assert reg.raised(shown, seen) == reg.RegisterView(seen.record, 1)
