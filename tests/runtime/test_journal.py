from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from godwit.runtime.journal import (
    HEADROOM_BYTES,
    JOURNAL_BYTES_MAX,
    RESERVED_BYTES,
    Journal,
    JournalFailedError,
    JournalFullError,
    Room,
    make_blank,
    make_directory,
    unfinished,
)
from godwit_protocol.errors import ConflictError, CorruptError, InvalidInputError
from godwit_protocol.journal import RECORD_BYTES_MAX, SECTOR_BYTES, encode_record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "journal"


def reopened(journal: Journal) -> tuple[bytes, ...]:
    journal.close()
    again = Journal.open(journal.path)
    again.close()
    return again.records


def test_a_new_journal_is_empty_and_gives_back_what_was_appended(path: Path) -> None:
    journal = Journal.open(path)
    assert journal.records == ()
    journal.append(b"one", sync=True)
    journal.append(b"two", sync=False)
    assert reopened(journal) == (b"one", b"two")


def test_a_torn_tail_is_cut_and_appending_goes_on_behind_the_last_whole_record(path: Path) -> None:
    journal = Journal.open(path)
    journal.append(b"whole", sync=True)
    journal.close()
    with path.open("r+b") as file:
        file.seek(len(encode_record(b"whole")) + SECTOR_BYTES)  # the sectors before did not come
        file.write(b"torn")
    journal = Journal.open(path)
    assert journal.records == (b"whole",)
    assert b"torn" not in path.read_bytes()
    journal.append(b"next", sync=True)
    assert reopened(journal) == (b"whole", b"next")


def test_a_journal_that_only_ever_grew_is_read(path: Path) -> None:
    """As a former version wrote it, cut in the middle of its last record."""
    path.parent.mkdir()
    path.write_bytes(encode_record(b"one") + encode_record(b"two") + encode_record(b"torn")[:-1])
    journal = Journal.open(path)
    assert journal.records == (b"one", b"two")
    journal.append(b"three", sync=True)
    assert reopened(journal) == (b"one", b"two", b"three")


def test_a_flushed_record_changes_nothing_but_bytes_that_were_there(path: Path) -> None:
    """Neither the file's size nor its place: that is what makes the flush quick."""
    journal = Journal.open(path)
    journal.append(b"decision", sync=True)
    size = path.stat().st_size
    for _ in range(3):
        journal.append(bytes(100), sync=False)
    journal.append(bytes(HEADROOM_BYTES - 12), sync=True, room=Room.TAKE)
    assert path.stat().st_size == size


@contextmanager
def files_of_at_most(byte_count: int) -> Iterator[None]:
    """As a disk that has no room for more, but for the error's number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (byte_count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_stops_the_rounds_but_never_a_stun(path: Path) -> None:
    """Whatever was journaled before it filled, there is room for the facts of a stun."""
    journal = Journal.open(path)
    journal.append(b"decision", sync=True)
    rounds = 0
    with files_of_at_most(RESERVED_BYTES):
        with pytest.raises(JournalFullError, match="no room"):
            while rounds < RESERVED_BYTES:
                journal.append(bytes(100), sync=False, room=Room.LEAVE)
                rounds += 1
        journal.append(b"the end", sync=True)
        journal.append(bytes(HEADROOM_BYTES - 64), sync=True, room=Room.TAKE)
        with pytest.raises(JournalFailedError, match="did not take"):
            journal.append(bytes(HEADROOM_BYTES), sync=True)
    assert len(reopened(journal)) == 3 + rounds


def test_a_journal_that_was_full_takes_more_when_the_disk_does(path: Path) -> None:
    journal = Journal.open(path)
    large = bytes(RESERVED_BYTES)
    with files_of_at_most(RESERVED_BYTES), pytest.raises(JournalFullError):
        journal.append(large, sync=True, room=Room.LEAVE)
    journal.append(large, sync=True, room=Room.LEAVE)
    assert reopened(journal) == (large,)


def test_a_journal_that_was_cleared_is_empty_and_keeps_its_room(path: Path) -> None:
    journal = Journal.open(path)
    journal.append(b"one", sync=True)
    journal.clear()
    assert path.stat().st_size == RESERVED_BYTES
    assert Journal.open(path).records == ()


def test_a_journal_that_cannot_be_begun_says_so_and_is_found_empty(path: Path) -> None:
    journal = Journal.open(path)
    with files_of_at_most(RESERVED_BYTES - 1), pytest.raises(JournalFailedError):
        journal.append(b"decision", sync=True)
    assert reopened(journal) == ()


def test_a_long_journal_is_read_whole(path: Path) -> None:
    journal = Journal.open(path)
    payloads = tuple(bytes([number]) * (3 * RESERVED_BYTES // 7) for number in range(1, 9))
    for number, payload in enumerate(payloads):
        journal.append(payload, sync=number % 2 == 0)
    assert reopened(journal) == payloads


def test_damage_is_an_error_and_the_file_is_left_as_it_is(path: Path) -> None:
    journal = Journal.open(path)
    journal.append(b"STAGED", sync=True)
    journal.close()
    damaged = path.read_bytes().replace(b"STAGED", b"STAGE!")
    path.write_bytes(damaged)
    for _ in range(2):
        with pytest.raises(CorruptError, match="damaged at byte 0"):
            Journal.open(path)
    assert path.read_bytes() == damaged


def test_one_process_holds_it_at_a_time(path: Path) -> None:
    journal = Journal.open(path)
    with pytest.raises(ConflictError, match="another process"):
        Journal.open(path)
    journal.close()
    Journal.open(path).close()


def test_a_removed_journal_is_gone(path: Path) -> None:
    journal = Journal.open(path)
    journal.append(b"one", sync=True)
    journal.remove()
    journal.remove()
    assert not path.exists()
    again = Journal.open(path)
    assert again.records == ()
    again.close()


def test_a_record_too_large_is_refused_and_harms_nothing(path: Path) -> None:
    journal = Journal.open(path)
    with pytest.raises(InvalidInputError):
        journal.append(bytes(RECORD_BYTES_MAX + 1), sync=False)
    journal.append(b"one", sync=False)
    assert reopened(journal) == (b"one",)


def test_after_a_disk_failure_nothing_more_is_taken(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.open(path)

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fail)
        with pytest.raises(JournalFailedError, match="Input/output error"):
            journal.append(b"one", sync=True)
    with pytest.raises(JournalFailedError, match="reopened"):
        journal.append(b"two", sync=False)
    journal.close()


def test_a_flush_takes_all_that_was_appended_and_is_done_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.open(path)
    journal.append(b"decision", sync=True)
    flushes: list[int] = []
    monkeypatch.setattr(os, "fdatasync", flushes.append)
    journal.append(b"FROZEN", sync=False, room=Room.TAKE)
    journal.append(b"more", sync=False, room=Room.TAKE)
    assert not flushes
    journal.flush()
    journal.flush()
    assert len(flushes) == 1
    assert reopened(journal) == (b"decision", b"FROZEN", b"more")


def failing(number: int) -> Callable[..., int]:
    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("asked", ["open", "ftruncate"])
def test_whatever_says_that_there_is_no_room_refuses_the_journal(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int, asked: str
) -> None:
    path.parent.mkdir()
    monkeypatch.setattr(os, asked, failing(number))
    with pytest.raises(JournalFullError, match="no room"):
        make_blank(path)


def test_a_disk_that_fails_is_not_taken_for_a_full_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full one may be asked again, and takes what room is kept."""
    journal = Journal.open(path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", failing(errno.EIO))
        with pytest.raises(JournalFailedError, match="Input/output error"):
            journal.append(b"one", sync=True, room=Room.LEAVE)
    with pytest.raises(JournalFailedError, match="reopened"):
        journal.append(b"one", sync=True)
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", failing(errno.EIO))
        with pytest.raises(JournalFailedError, match="Input/output error"):
            Journal.open(path)


def test_room_that_is_needed_at_once_is_not_asked_for_twice(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that failed to give it may be about to take more: nobody knows what it has."""
    journal = Journal.open(path)
    asked: list[int] = []

    def fail(_descriptor: int, _data: bytes, offset: int) -> int:
        asked.append(offset)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", fail)
        with pytest.raises(JournalFailedError):
            journal.append(b"one", sync=True, room=Room.NEED)
    assert len(asked) == 1


def test_a_journal_that_cannot_be_cleared_says_so_and_takes_nothing_more(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.open(path)
    journal.append(b"one", sync=True)
    monkeypatch.setattr(os, "pwrite", failing(errno.EIO))
    with pytest.raises(JournalFailedError, match="Input/output error"):
        journal.clear()
    monkeypatch.undo()
    with pytest.raises(JournalFailedError, match="reopened"):
        journal.clear()


def test_a_closed_journal_takes_nothing_more(path: Path) -> None:
    """Its descriptor may be another file's by now."""
    journal = Journal.open(path)
    journal.append(b"one", sync=False)
    journal.close()
    journal.close()
    with pytest.raises(JournalFailedError, match="reopened"):
        journal.append(b"two", sync=False)
    with pytest.raises(JournalFailedError, match="reopened"):
        journal.flush()


def test_a_rehearsal_writes_nothing_and_fails_as_an_append_would_but_says_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.open(path)
    before = path.read_bytes()
    journal.rehearse(b"one")
    assert path.read_bytes() == before
    with monkeypatch.context() as patched:
        patched.setattr("godwit.runtime.journal._write", failing(errno.EIO))
        journal.rehearse(b"one")
    journal.rehearse(b"one")
    with pytest.raises(JournalFailedError, match="reopened"):
        journal.append(b"one", sync=True)


def held_below(folder: Path) -> list[str]:
    """What of a folder this process has open, whatever other tests leave to the collector."""
    held = list[str]()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            held.append(str(descriptor.readlink()))
    return [name for name in held if name.startswith(f"{folder}/")]


def test_no_descriptor_is_left_behind(path: Path) -> None:
    """A host's service lives for months, and a journal that is held cannot be opened again."""
    path.parent.mkdir()
    for _ in range(3):
        make_blank(path.with_name("blank"))
        cleared = Journal.open(path.with_name("blank"))
        cleared.append(b"one", sync=True)
        cleared.clear()
        removed = Journal.open(path)
        removed.remove()
        path.write_bytes(encode_record(b"one").replace(b"one", b"0ne") + encode_record(b"two"))
        with pytest.raises(CorruptError):
            Journal.open(path)
        path.unlink()
    assert held_below(path.parent) == []


def test_a_file_that_is_too_large_for_a_journal_is_not_read(path: Path) -> None:
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(JOURNAL_BYTES_MAX + 1)
    with pytest.raises(CorruptError, match="never so large"):
        Journal.open(path)


def test_a_journal_that_is_reopened_keeps_its_room_and_one_that_was_cut_gets_it_back(
    path: Path,
) -> None:
    journal = Journal.open(path)
    journal.append(b"one", sync=True)
    assert reopened(journal) == (b"one",)
    assert path.stat().st_size == RESERVED_BYTES
    with path.open("r+b") as file:
        file.seek(RESERVED_BYTES - 4)
        file.write(b"torn")
    journal = Journal.open(path)
    cut = path.stat().st_size
    assert cut < RESERVED_BYTES
    journal.append(b"two", sync=True)
    assert path.stat().st_size == cut + RESERVED_BYTES
    journal.close()


def test_a_journal_that_is_reopened_goes_on_behind_what_it_holds(path: Path) -> None:
    journal = Journal.open(path)
    for life in range(1, 4):
        journal.append(bytes([life]), sync=True)
        journal.close()
        journal = Journal.open(path)
        assert journal.records == tuple(bytes([number]) for number in range(1, life + 1))
    journal.close()


def test_what_a_reopened_journal_showed_had_been_flushed_before_what_follows(path: Path) -> None:
    """So a sector of it that is missing later is damage: it is not cut as if it were torn."""
    journal = Journal.open(path)
    journal.append(b"o" * 3 * SECTOR_BYTES, sync=False)
    assert len(reopened(journal)) == 1
    journal = Journal.open(path)
    journal.append(b"two", sync=True)
    journal.close()
    with path.open("r+b") as file:
        file.seek(SECTOR_BYTES)
        file.write(bytes(SECTOR_BYTES))
    with pytest.raises(CorruptError, match="damaged at byte 0"):
        Journal.open(path)


def test_the_zeros_of_a_blank_are_written_before_they_are_flushed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A length alone reads the same, and has no room on the disk."""
    path.parent.mkdir()
    pwrite, fsync = os.pwrite, os.fsync
    done: list[str] = []

    def write(descriptor: int, data: bytes, offset: int) -> int:
        done.append("written")
        return pwrite(descriptor, data, offset)

    def flush(descriptor: int) -> None:
        done.append("flushed")
        fsync(descriptor)

    monkeypatch.setattr(os, "pwrite", write)
    monkeypatch.setattr(os, "fsync", flush)
    make_blank(path)
    assert done == ["written", "flushed", "flushed"], "the last: its directory"


def test_a_blank_is_blank_whatever_lay_there_before_it(path: Path) -> None:
    path.parent.mkdir()
    unfinished(path).write_bytes(b"left" * RESERVED_BYTES)
    make_blank(path)
    assert path.read_bytes() == bytes(RESERVED_BYTES)


def test_a_directory_that_another_makes_meanwhile_is_no_failure(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = Path.mkdir

    def late(directory: Path, mode: int = 0o777, *, exist_ok: bool = False) -> None:
        mkdir(directory)
        mkdir(directory, mode, exist_ok=exist_ok)

    monkeypatch.setattr(Path, "mkdir", late)
    make_directory(path.parent)
    assert path.parent.is_dir()


def test_who_may_not_read_above_a_directory_can_have_made_nothing_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.parent.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", failing(errno.EACCES))
        make_directory(path.parent)
    with monkeypatch.context() as patched, pytest.raises(OSError, match="Input/output error"):
        patched.setattr(os, "open", failing(errno.EIO))
        make_directory(path.parent)


def test_what_a_killed_process_appended_is_there(path: Path) -> None:
    program = (
        "import os, pathlib, signal, sys\n"
        "from godwit.runtime.journal import Journal\n"
        "journal = Journal.open(pathlib.Path(sys.argv[1]))\n"
        "journal.append(b'synced', sync=True)\n"
        "journal.append(b'not synced', sync=False)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, path], timeout=30, check=False)
    assert ended.returncode == -signal.SIGKILL
    journal = Journal.open(path)
    assert journal.records == (b"synced", b"not synced")
    journal.close()
