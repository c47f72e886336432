"""A register that loses a write: a host that has seen more freezes, also after a restart."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import msgspec
import pytest

from godwit.host import registers
from godwit.host.marks import MarkFiles, MemoryMarks
from godwit.host.registers import Registers, RegisterWentBackError
from godwit.runtime.event_log import LogFullError
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.nats_server import NatsServer
from godwit_protocol import register as reg
from godwit_protocol import subjects
from godwit_protocol.errors import UnreachableError
from godwit_protocol.roles.inputs import CasSettled, CasUnclear
from godwit_protocol.stored import Stored


@pytest.fixture(autouse=True)
def no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registers, "LOOK_S", 0.0)


async def test_a_host_that_saw_more_decides_nothing_any_more(
    own_server: NatsServer, own_log: NatsLog, tmp_path: Path
) -> None:
    """The server comes back as it was before its last acknowledged write, as after a power loss."""
    marks = tmp_path / "marks"
    marks.mkdir()
    host = Registers(own_log, MarkFiles(marks))
    first = reg.started("m", "host-1", None)
    started = await host.compare_and_set(first, 0)
    assert isinstance(started, CasSettled)
    await own_server.stop()
    store, copy = own_server.directory / "jetstream", tmp_path / "copy"
    shutil.copytree(store, copy)
    await own_server.restart()
    moved = reg.moved(first, "host-2", "some-migration")
    settled = await host.compare_and_set(moved, started.standing.sequence)
    assert isinstance(settled, CasSettled)
    assert settled.won
    await own_server.stop()
    shutil.rmtree(store)
    copy.rename(store)
    await own_server.restart()

    newcomer = await Registers(own_log).read("m")
    assert newcomer.record == first, "who has seen nothing cannot know"
    restarted = Registers(own_log, MarkFiles(marks))
    with pytest.raises(RegisterWentBackError, match="it has lost a write") as raised:
        await restarted.read("m")
    assert raised.value.seen == settled.standing
    assert raised.value.found == newcomer
    assert await restarted.known("m") == reg.RegisterView(None, settled.standing.sequence)
    wanted = reg.taken_back(first, "some-migration")
    lost = await restarted.compare_and_set(wanted, settled.standing.sequence)
    assert lost == CasSettled(won=False, standing=newcomer)
    overruled = await restarted.to_overrule("m")
    assert overruled == (newcomer, settled.standing)
    raised_epoch = reg.raised(*overruled).record
    assert raised_epoch == msgspec.structs.replace(first, epoch=2), "no epoch has two owners"

    again = reg.restored(settled.standing, newcomer, "host-2", 2)
    assert again is not None
    written = await Registers(own_log).compare_and_set(again, newcomer.sequence)
    assert isinstance(written, CasSettled)
    assert written.won
    assert (await restarted.read("m")).record == again, "it shows more again"


async def test_a_register_that_is_gone_has_gone_back(
    log: NatsLog, unique_name: str, tmp_path: Path
) -> None:
    record = reg.started(unique_name, "host-1", None)
    MarkFiles(tmp_path).write(unique_name, reg.RegisterView(record, 7))
    with pytest.raises(RegisterWentBackError):
        await Registers(log, MarkFiles(tmp_path)).read(unique_name)


async def test_what_a_host_has_only_read_it_has_seen_too(
    log: NatsLog, unique_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most of what it knows of a register another host has written."""
    other, host = Registers(log), Registers(log, MarkFiles(tmp_path))
    first = reg.started(unique_name, "host-2", None)
    begun = await other.compare_and_set(first, 0)
    assert isinstance(begun, CasSettled)
    before = await log.last(subjects.register(unique_name))
    assert await host.read(unique_name) == begun.standing
    moved = reg.moved(first, "host-3", "some-migration")
    settled = await other.compare_and_set(moved, begun.standing.sequence)
    assert isinstance(settled, CasSettled)
    assert await host.read(unique_name) == settled.standing

    async def last_as_before(_subject: str) -> Stored | None:
        return before

    monkeypatch.setattr(log, "last", last_as_before)
    for life in (host, Registers(log, MarkFiles(tmp_path))):
        with pytest.raises(RegisterWentBackError) as raised:
            await life.read(unique_name)
        assert (raised.value.seen, raised.value.found) == (settled.standing, begun.standing)


async def test_a_register_that_the_log_has_no_room_for_may_be_written_later(
    log: NatsLog, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object, **__: object) -> int:
        raise LogFullError("the event log is full")

    record = reg.started(unique_name, "host-1", None)
    with monkeypatch.context() as disk:
        disk.setattr(log, "append", full)
        unclear = await Registers(log).compare_and_set(record, 0)
    assert unclear == CasUnclear(message="the event log is full")
    settled = await Registers(log).compare_and_set(record, 0)
    assert isinstance(settled, CasSettled)
    assert settled.won


@pytest.mark.parametrize("is_ours", [True, False])
async def test_whoever_heard_no_answer_has_won_only_if_its_own_write_stands(
    log: NatsLog, unique_name: str, monkeypatch: pytest.MonkeyPatch, is_ours: bool
) -> None:
    """The same value by the same migration is another's if it has another nonce."""
    first = reg.started(unique_name, "host-1", None)
    begun = await Registers(log).compare_and_set(first, 0)
    assert isinstance(begun, CasSettled)
    ours, others = (reg.moved(first, "host-2", "some-migration") for _ in range(2))
    others = msgspec.structs.replace(others, nonce="another")
    append = log.append

    async def unheard(subject: str, _data: bytes, **_options: object) -> int:
        stored = ours if is_ours else others
        await append(
            subject,
            reg.encode(stored),
            message_id=f"{unique_name}/{stored.nonce}",
            expected_last_sequence=begun.standing.sequence,
            timeout_s=registers.CAS_TIMEOUT_S,
        )
        raise UnreachableError("no answer")

    monkeypatch.setattr(log, "append", unheard)
    settled = await Registers(log).compare_and_set(ours, begun.standing.sequence)
    assert isinstance(settled, CasSettled)
    assert settled.won is is_ours
    assert settled.standing.record == (ours if is_ours else others)


async def test_whoever_cannot_read_back_does_not_know(
    log: NatsLog, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> int:
        raise UnreachableError("the log is away")

    monkeypatch.setattr(log, "append", away)
    monkeypatch.setattr(log, "last", away)
    record = reg.started(unique_name, "host-1", None)
    unclear = await Registers(log).compare_and_set(record, 0)
    assert unclear == CasUnclear(message="the log is away")


def test_a_mark_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("torn")
    assert MarkFiles(tmp_path).read("m") == reg.NO_REGISTER


async def test_a_full_disk_does_not_stop_a_write_of_the_register(
    log: NatsLog, unique_name: str, tmp_path: Path
) -> None:
    host = Registers(log, MarkFiles(tmp_path / "not there"))
    settled = await host.compare_and_set(reg.started(unique_name, "host-1", None), 0)
    assert isinstance(settled, CasSettled)
    assert settled.won


async def test_a_register_that_shows_less_is_given_time_to_show_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A log whose leader changes may show an older one."""
    monkeypatch.setattr(registers, "LOOK_S", 0.25)
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(registers.asyncio, "sleep", sleep)
    first = reg.started("m", "host-1", None)
    seen = reg.RegisterView(reg.moved(first, "host-2", "some-migration"), 2)
    older = Stored(subjects.register("m"), 1, 0, reg.encode(first), {})
    with pytest.raises(RegisterWentBackError):
        await Registers(Mock(last=AsyncMock(return_value=older))).read("m", seen)
    assert waited == [0.25] * registers.LOOKS_MAX


class Log:
    """One whose register shows what a test wants; every write of it wins."""

    def __init__(self) -> None:
        self.shown = reg.NO_REGISTER
        self.sequence = 0

    async def append(self, *_: object, **__: object) -> int:
        self.sequence += 1
        return self.sequence

    async def last(self, subject: str) -> Stored | None:
        if self.shown.record is None:
            return None
        return Stored(subject, self.shown.sequence, 0, reg.encode(self.shown.record), {})


async def test_what_was_won_is_known_before_it_is_noted_and_noted_unless_more_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A host's other service may have seen a later one meanwhile."""
    due: list[object] = []
    loop = asyncio.get_running_loop()
    later = lambda _seconds, note, machine: due.append(lambda: note(machine))  # noqa: E731
    monkeypatch.setattr(loop, "call_later", later)
    log, marks = Log(), MemoryMarks()
    host = Registers(log, marks)
    first = reg.started("m", "host-1", None)
    moved = reg.moved(first, "host-2", "some-migration")
    await host.compare_and_set(first, 0)
    log.shown = reg.RegisterView(first, 1)
    won = await host.compare_and_set(moved, 1)
    assert marks.read("m") == reg.NO_REGISTER
    with pytest.raises(RegisterWentBackError):
        await host.read("m")
    for note in due:
        note()
    assert marks.read("m") == won.standing
    gone_on = reg.RegisterView(reg.moved(moved, "host-3", "another"), 3)
    await host.compare_and_set(moved, 2)
    marks.write("m", gone_on)
    due[-1]()
    assert marks.read("m") == gone_on


async def test_a_register_is_read_also_where_its_mark_cannot_be_written(tmp_path: Path) -> None:
    log = Log()
    log.shown = reg.RegisterView(reg.started("m", "host-1", None), 1)
    assert await Registers(log, MarkFiles(tmp_path / "not there")).read("m") == log.shown
