"""A log in a file is the same log, in whichever form it lies there."""

from __future__ import annotations

import asyncio
import gzip
import sys
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from godwit.cli.replay import write_export
from godwit.cli.replay_verify import verify_all
from godwit.pictures import reading
from godwit.runtime.log_file import CHUNK_BYTES, TURN_EVERY, LogFile
from godwit.runtime.signing import is_signed
from godwit_protocol import codec, subjects
from godwit_protocol.errors import CorruptError, InvalidInputError
from godwit_protocol.replay import lines
from godwit_protocol.replay.chains import note
from godwit_protocol.replay.signatures import Trust
from godwit_protocol.replay.stories import Stories
from godwit_protocol.replay.verification import verify
from godwit_protocol.stored import (
    EXPECTED_SEQUENCE_HEADER,
    FIRST_STORED_HEADER,
    MESSAGE_ID_HEADER,
    Stored,
)

GOLDEN = sorted((Path(__file__).parents[1] / "golden" / "logs").glob("*.ndjson"))


def odd() -> list[Stored]:
    """Messages that are no events, and an event after them."""
    register = subjects.register("m")
    last = list(LogFile(GOLDEN[0]).messages())[-1]
    return [
        Stored(subject=register, sequence=1, time_ns=2, data=b"\xc1\x00", headers={"a": "b"}),
        Stored(subject=register, sequence=2, time_ns=3, data=b""),
        last,
    ]


def written(path: Path, messages: list[Stored], of: str = "") -> LogFile:
    path.write_bytes(lines.encode_head(of) + b"".join(map(lines.encode_line, messages)))
    return LogFile(path)


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.stem)
async def test_a_table_replays_as_the_lines_that_it_was_made_from(
    golden: Path, tmp_path: Path
) -> None:
    of, table = LogFile(golden).head().of, tmp_path / "log.parquet"
    messages = list(LogFile(golden).messages())
    assert await write_export(LogFile(golden), of, table) == len(messages)
    read = list(LogFile(table).messages())
    assert LogFile(table).head() == LogFile(golden).head()
    assert read == messages
    assert note(read) == note(messages)
    assert verify(of, read) == verify(of, messages)


def test_a_table_has_the_columns_of_the_envelope(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from godwit.runtime.parquet_file import ParquetWriter

    path = tmp_path / "log.parquet"
    writer = ParquetWriter(path)
    for message in odd():
        writer.add(message)
    writer.close()
    assert list(LogFile(path).messages()) == odd()
    rows = pq.read_table(path).to_pylist()
    envelope = codec.decode(odd()[-1].data).envelope
    assert rows[0]["type"] is None
    for name in ("id", "type", "migration", "lane", "lane_sequence", "host", "wall_ns", "boot"):
        assert rows[-1][name] == getattr(envelope, name)


@pytest.mark.parametrize("form", ["lines", "packed", "table"])
async def test_events_are_the_decoded_messages_of_the_events_stream(
    form: str, tmp_path: Path
) -> None:
    log = written(tmp_path / "log", odd())
    if form == "packed":
        packed = tmp_path / "log.gz"
        packed.write_bytes(gzip.compress(log.path.read_bytes()))
        log = LogFile(packed)
    elif form == "table":
        table = tmp_path / "log.parquet"
        await write_export(log, "", table)
        log = LogFile(table)
    (event,) = [each async for each in reading.events(log, reading.ALL_EVENTS)]
    assert event == codec.decode(odd()[-1].data, odd()[-1].sequence)


async def test_what_comes_weeks_after_a_migrations_end_is_put_to_it(tmp_path: Path) -> None:
    """The tracker writes into it when the machine moves on; it is whole, and nothing is wrong."""
    signed = LogFile(next(path for path in GOLDEN if path.stem == "v1-signed"))
    migration, messages = signed.head().of, list(signed.messages())
    log = written(tmp_path / "log", messages)
    ended = next(at for at, each in enumerate(messages) if each.subject.endswith("migration_ended"))
    assert len(messages) - ended > 4
    for late_events_max in (0, 2, len(messages)):
        (found,), _ = await verify_all(
            log, Trust(is_signed=is_signed), late_events_max=late_events_max
        )
        assert found == verify(migration, messages, trust=Trust(is_signed=is_signed))
    stories = Stories(0)
    (early,) = [story for each in messages for story in stories.take(each)]
    assert len(early.messages) == ended + 2
    assert stories.late == (migration,)
    assert list(stories.rest()) == [], "a fragment is no story"


class Served:
    """What a file holds, as a server has it: found by its subjects."""

    def __init__(self, file: LogFile) -> None:
        self._file = file
        self.asked: list[tuple[str, ...]] = []

    async def last(self, subject: str, *, timeout_s: float = 5.0) -> Stored | None:
        return await self._file.last(subject, timeout_s=timeout_s)

    def read(self, subjects: Sequence[str], *, after_sequence: int = 0) -> AsyncIterator[Stored]:
        self.asked.append(tuple(subjects))
        return self._file.read(subjects, after_sequence=after_sequence)

    def tail(self, subjects: Sequence[str], *, after_sequence: int = 0) -> AsyncIterator[Stored]:
        raise AssertionError("nothing is followed to verify what is there")


async def test_a_server_is_asked_for_what_came_late_by_its_subjects(tmp_path: Path) -> None:
    signed = LogFile(next(path for path in GOLDEN if path.stem == "v1-signed"))
    migration, messages = signed.head().of, list(signed.messages())
    log = Served(written(tmp_path / "log", messages))
    (found,), _ = await verify_all(log, Trust(is_signed=is_signed), late_events_max=0)
    assert found == verify(migration, messages, trust=Trust(is_signed=is_signed))
    once = [subjects.STREAM_SUBJECTS[each] for each in (subjects.EVENTS, subjects.REGISTER)]
    assert log.asked == [*map(tuple, once), tuple(subjects.whole_migration(migration))]


def test_what_is_cut_off_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    whole = written(tmp_path / "log", odd()).path.read_bytes()
    cut = tmp_path / "cut"
    for data in (whole[: whole.rindex(b'"data"') + 20], gzip.compress(whole)[:-9], b"PAR1" + whole):
        cut.write_bytes(data)
        with pytest.raises(CorruptError, match="cut"):
            list(LogFile(cut).messages())


async def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    head, *told = GOLDEN[0].read_bytes().splitlines(keepends=True)

    async def most_bytes(copies: int) -> int:
        path = tmp_path / str(copies)
        path.write_bytes(head + b"".join(told) * copies)
        tracemalloc.start()
        try:
            count = 0
            async for _ in reading.events(LogFile(path), reading.ALL_EVENTS):
                count += 1
            assert count == copies * len(told)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    short = await most_bytes(2 * CHUNK_BYTES // len(b"".join(told)) + 1)
    assert await most_bytes(300) < short + CHUNK_BYTES


def test_a_table_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "log.parquet"
    table.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InvalidInputError, match="need pyarrow") as refused:
        LogFile(table).head()
    assert "godwit[parquet]" in refused.value.hint


def test_a_message_goes_into_another_log_without_its_place_in_this_one() -> None:
    headers = {MESSAGE_ID_HEADER: "one", EXPECTED_SEQUENCE_HEADER: "7", "ce-type": "x"}
    message = Stored("s", 8, 99, b"", headers)
    kept = {"ce-type": "x", FIRST_STORED_HEADER: "99"}
    assert message.for_another_log("another") == ("one", kept)
    assert Stored("s", 8, 99, b"").for_another_log("another") == (
        "another",
        {FIRST_STORED_HEADER: "99"},
    )


async def test_whoever_reads_a_long_file_may_be_cancelled(tmp_path: Path) -> None:
    messages = [Stored("s", number, 0, b"") for number in range(1, 3 * TURN_EVERY)]
    file = written(tmp_path / "log", messages)
    read, has_begun = 0, asyncio.Event()

    async def read_all() -> None:
        nonlocal read
        async for _ in file.read(["s"]):
            read += 1
            has_begun.set()

    reading = asyncio.create_task(read_all())
    await has_begun.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert read < len(messages)
