"""The end of a migration's journal on a full disk, when the process or the host dies in it."""

from __future__ import annotations

from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from godwit.host.disk import HostDirectory, JournalFiles
from godwit.runtime.journal import RESERVED_BYTES, Journal, JournalFullError
from power_loss import LOSSES, DiedError, Disk, Kept

FACTS = tuple(bytes([number]) * 1500 for number in range(1, 25))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path / "disk", monkeypatch)


@pytest.fixture(params=LOSSES.values(), ids=LOSSES)
def kept(request: pytest.FixtureRequest) -> Kept:
    kept: Kept = request.param()
    return kept


def service(number: int) -> str:
    return f"service-{number}"


def folder(disk: Disk, number: int) -> JournalFiles:
    return HostDirectory(disk.path).journals(service(number))


def begun(disk: Disk, number: int) -> Journal:
    disk.room_bytes = None
    journal = folder(disk, number).begin("migration")
    for fact in FACTS:
        journal.append(fact, sync=True)
    disk.room_bytes = 0
    return journal


def ends(disk: Disk) -> list[int]:
    """Services that ended a journal, each of which died one operation later; the last did not."""
    for number in count(1):
        journal = begun(disk, number)
        disk.dies_at = disk.operations + number
        with suppress(DiedError):
            folder(disk, number).end("migration", journal)
            disk.kill()
            return list(range(1, number + 1))
        disk.kill()
    raise AssertionError


def check(disk: Disk, number: int) -> None:
    """That the journal is there whole or not at all, and that another can be begun if it is not."""
    journals = folder(disk, number)
    for name in journals.names():
        journal = journals.open(name)
        assert journal.records == FACTS
        journals.end(name, journal)
    journals.keep_blank()
    assert journals.begin("next").records == ()


@pytest.mark.parametrize("loses_power", [False, True])
def test_a_journal_that_is_ended_is_found_whole_or_not_at_all(
    disk: Disk, kept: Kept, loses_power: bool
) -> None:
    ended = ends(disk)
    assert len(ended) > 5
    if loses_power:
        disk.lose_power(kept)
    else:
        disk.kill()
    for number in ended:
        check(disk, number)


def test_the_journal_that_was_ended_is_the_blank(disk: Disk, kept: Kept) -> None:
    journals = folder(disk, 1)
    journals.end("migration", begun(disk, 1))
    disk.lose_power(kept)
    assert journals.names() == []
    assert disk.durable_bytes(disk.path / "journals" / service(1) / "blank").count(0) >= (
        RESERVED_BYTES
    )
    assert folder(disk, 1).begin("next").records == ()
    with pytest.raises(JournalFullError):
        folder(disk, 2).keep_blank()
