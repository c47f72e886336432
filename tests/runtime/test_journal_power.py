"""What a journal promises of a loss of power, on a disk that keeps no more than it must."""

from __future__ import annotations

from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from godwit.runtime.journal import (
    HEADROOM_BYTES,
    RESERVED_BYTES,
    Journal,
    JournalFailedError,
    JournalFullError,
    Room,
    make_blank,
    make_directory,
    move,
)
from power_loss import LOSSES, DiedError, Disk, Kept

PAYLOADS = tuple(bytes([number]) * (1 + number * 397 % 5000) for number in range(1, 25))
"""Smaller and larger than a sector and a page; in all more than a journal reserves twice."""


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path / "disk", monkeypatch)


@pytest.fixture
def path(disk: Disk) -> Path:
    return disk.path / "deep" / "er" / "journal"


@pytest.fixture(params=LOSSES.values(), ids=LOSSES)
def kept(request: pytest.FixtureRequest) -> Kept:
    kept: Kept = request.param()
    return kept


def found_at(path: Path) -> tuple[bytes, ...]:
    assert path.exists()
    journal = Journal.open(path)
    journal.close()
    return journal.records


def test_what_was_flushed_is_there_and_what_was_not_is_there_in_order(
    disk: Disk, path: Path, kept: Kept
) -> None:
    journal = Journal.open(path)
    journal.append(b"synced", sync=True)
    journal.append(b"flushed", sync=False)
    journal.flush()
    appended = (b"synced", b"flushed", *PAYLOADS[:5])  # fewer than more room is reserved for
    for payload in appended[2:]:
        journal.append(payload, sync=False)
    disk.lose_power(kept)
    found = found_at(path)
    assert len(found) >= 2
    assert found == appended[: len(found)]


def test_a_journal_that_was_opened_is_there(disk: Disk, path: Path, kept: Kept) -> None:
    Journal.open(path)
    disk.lose_power(kept)
    assert found_at(path) == ()


def test_a_journal_is_there_whatever_a_former_life_left_of_it_and_its_directories(
    disk: Disk, kept: Kept
) -> None:
    """A file or directory that was there already may not be on the disk yet."""
    paths = [disk.path / f"life-{number}" / "deep" / "journal" for number in range(1, 12)]
    for number, path in enumerate(paths, start=1):
        disk.dies_at = disk.operations + number
        with suppress(DiedError):
            Journal.open(path)
        disk.kill()
        make_directory(path.parent)
        Journal.open(path).append(b"one", sync=True)
        disk.kill()
    disk.lose_power(kept)
    assert [found_at(path) for path in paths] == [(b"one",)] * len(paths)


def test_a_blank_is_there_with_its_room(disk: Disk, kept: Kept) -> None:
    blank = disk.path / "blank"
    make_blank(blank)
    disk.lose_power(kept)
    assert blank.read_bytes() == bytes(RESERVED_BYTES)


def test_a_blank_that_was_moved_is_there_under_its_new_name_alone(disk: Disk, kept: Kept) -> None:
    blank, path = disk.path / "blank", disk.path / "journal"
    make_blank(blank)
    move(blank, path)
    disk.lose_power(kept)
    assert not blank.exists()
    assert found_at(path) == ()


def test_a_journal_that_was_removed_is_not_found_again(disk: Disk, path: Path, kept: Kept) -> None:
    journal = Journal.open(path)
    journal.append(b"one", sync=True)
    journal.remove()
    disk.lose_power(kept)
    assert not path.exists()


def test_a_journal_that_was_cleared_has_no_records_and_has_its_room(
    disk: Disk, path: Path, kept: Kept
) -> None:
    journal = Journal.open(path)
    for payload in PAYLOADS:
        journal.append(payload, sync=True)
    size = path.stat().st_size
    journal.clear()
    disk.lose_power(kept)
    assert found_at(path) == ()
    assert path.stat().st_size == size


def test_what_a_reopened_journal_showed_counts(disk: Disk, path: Path, kept: Kept) -> None:
    """The former life had not flushed it, and nobody flushes it later."""
    Journal.open(path).append(b"not synced", sync=False)
    disk.kill()
    assert found_at(path) == (b"not synced",)
    disk.lose_power(kept)
    assert found_at(path) == (b"not synced",)


def test_what_a_disk_failed_to_take_counts_once_a_reopened_journal_showed_it(
    disk: Disk, path: Path, kept: Kept
) -> None:
    """The file still reads as if the disk had taken it, and has nothing left to be flushed."""
    journal = Journal.open(path)
    journal.append(b"one", sync=True)
    disk.fails_next_sync = True
    with pytest.raises(JournalFailedError):
        journal.append(b"two", sync=True)
    disk.kill()
    assert found_at(path) == (b"one", b"two")
    disk.lose_power(kept)
    assert found_at(path) == (b"one", b"two")


def test_records_are_written_only_over_zeros_that_are_on_the_disk(disk: Disk, path: Path) -> None:
    """So a record's flush has neither a length nor a place to flush with it."""
    journal = Journal.open(path)
    for payload in PAYLOADS:
        journal.append(payload, sync=False)
        assert len(disk.durable_bytes(path)) == path.stat().st_size


def test_a_disk_that_fills_up_takes_what_there_was_room_for(disk: Disk, path: Path) -> None:
    """Also one that finds only in a flush that it is full: the room was flushed before."""
    journal = Journal.open(path)
    journal.append(b"round", sync=False, room=Room.LEAVE)
    disk.room_bytes = 0
    stun = bytes(HEADROOM_BYTES - 64)
    journal.append(stun, sync=True, room=Room.TAKE)
    disk.kill()
    assert found_at(path) == (b"round", stun)


def test_a_blank_for_which_there_is_no_room_is_not_there(disk: Disk) -> None:
    disk.room_bytes = RESERVED_BYTES - 1
    with pytest.raises(JournalFullError):
        make_blank(disk.path / "blank")
    assert not list(disk.path.iterdir())


class Life:
    """A journal's, from a blank to its removal, with what has been promised so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_begun = False
        self.synced = 0
        self.is_ending = False
        self.is_ended = False

    def live(self) -> None:
        blank = self.path.with_name("blank")
        make_directory(self.path.parent)
        make_blank(blank)
        move(blank, self.path)
        journal = Journal.open(self.path)
        self.is_begun = True
        for number, payload in enumerate(PAYLOADS, start=1):
            journal.append(payload, sync=number % 5 == 1)
            if number % 5 == 1:
                self.synced = number
        self.is_ending = True
        journal.remove()
        self.is_ended = True

    def check(self) -> None:
        """That what is found keeps to what was promised."""
        if self.is_ended:
            assert not self.path.exists()
        if self.path.exists():
            found = found_at(self.path)
            assert found == PAYLOADS[: len(found)]
            assert len(found) >= self.synced
        elif self.is_begun:
            assert self.is_ending


def lives(disk: Disk) -> list[Life]:
    """Lives in ``disk``, one after another, each of which ended one operation later."""
    ended: list[Life] = []
    for number in count(1):
        life = Life(disk.path / f"life-{number}" / "journal")
        disk.dies_at = disk.operations + number
        with suppress(DiedError):
            life.live()
        disk.kill()
        ended.append(life)
        if life.is_ended:
            break
    return ended


def test_whenever_the_power_goes_what_was_promised_is_kept(disk: Disk, kept: Kept) -> None:
    every = lives(disk)
    assert len(every) > len(PAYLOADS)
    disk.lose_power(kept)
    for life in every:
        life.check()


def test_whenever_a_process_is_killed_what_the_next_one_saw_is_kept(disk: Disk, kept: Kept) -> None:
    """But for a journal whose removal had begun: what it held had been settled."""
    seen = {life.path: found_at(life.path) for life in lives(disk) if life.path.exists()}
    assert len(seen) > len(PAYLOADS)
    disk.lose_power(kept)
    assert {path: found_at(path) for path in seen} == seen
