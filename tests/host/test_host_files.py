"""Small files of a host's directory: an inbox's cursor, and the blank that all journals share."""

from __future__ import annotations

from pathlib import Path

import pytest

from godwit.host import disk
from godwit.host.disk import HostDirectory, JournalFiles
from godwit.runtime.journal import JournalFullError


def test_a_cursor_is_what_was_written_last_in_whichever_life(tmp_path: Path) -> None:
    assert HostDirectory(tmp_path).cursor("a_service").read() == 0
    for sequence in (7, 12):
        HostDirectory(tmp_path).cursor("a_service").write(sequence)
        assert HostDirectory(tmp_path).cursor("a_service").read() == sequence
    assert HostDirectory(tmp_path).cursor("another").read() == 0


def test_a_cursor_that_is_torn_is_lost(tmp_path: Path) -> None:
    """Decisions only come again."""
    cursor = HostDirectory(tmp_path).cursor("a_service")
    cursor.write(7)
    (file,) = (tmp_path / "a_service").iterdir()
    file.write_bytes(b"")
    assert cursor.read() == 0


def test_a_cursor_is_whole_whenever_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the new value is on its own in a file, the older one stays."""
    cursor = HostDirectory(tmp_path).cursor("a_service")
    cursor.write(7)
    write_text = Path.write_text
    found: list[int] = []

    def write(path: Path, text: str, encoding: str) -> int:
        written = write_text(path, text, encoding=encoding)
        found.append(cursor.read())
        return written

    monkeypatch.setattr(Path, "write_text", write)
    cursor.write(12)
    assert [*found, cursor.read()] == [7, 12]


@pytest.mark.parametrize("is_full", [False, True])
def test_one_thread_at_a_time_has_the_blank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_full: bool
) -> None:
    """Journals are ended in a thread, while another is begun: the blank would be made of two."""
    folder: JournalFiles = HostDirectory(tmp_path).journals("a_service")
    done: list[str] = []
    make_blank, move = disk.make_blank, disk.move

    def make(path: Path) -> None:
        assert folder._alone.locked()
        done.append("made")
        if is_full and len(done) > 2:
            raise JournalFullError("no room")
        make_blank(path)

    def moved(path: Path, to: Path) -> None:
        assert folder._alone.locked()
        done.append("moved")
        move(path, to)

    monkeypatch.setattr(disk, "make_blank", make)
    monkeypatch.setattr(disk, "move", moved)
    folder.keep_blank()
    journal = folder.begin("one")
    assert not folder._alone.locked()
    folder.end("one", journal)
    assert done == ["made", "moved", "made", *(["moved", "moved"] if is_full else [])]
    assert folder.names() == []
    assert not folder._alone.locked()
