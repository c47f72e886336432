"""``godwit archive``: what leaves the server is whole in the archive before, whenever it dies."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio
from conftest import Godwit

from godwit.archive import store as store_module
from godwit.archive.archiving import Archiving, Fate
from godwit.archive.reading import ArchivedLog
from godwit.archive.restoring import Restored, Restoring
from godwit.archive.store import Step, Store, said
from godwit.coordinator.claims import Claims
from godwit.pictures.migrations import all_migrations
from godwit.runtime.clock import SystemClock
from godwit.runtime.log_file import LogFile
from godwit.runtime.nats_log import LogRequestError, NatsLog
from godwit.runtime.nats_server import NatsServer
from godwit.runtime.provision import provision
from godwit.runtime.purging import NatsPurger
from godwit.runtime.signing import is_signed
from godwit_protocol import codec, subjects
from godwit_protocol.errors import ConflictError, CorruptError, NotFoundError, RefusedError
from godwit_protocol.ledger import EntryKind, LedgerEntry, encode_entry
from godwit_protocol.register import Claim, encode_claim
from godwit_protocol.replay.chains import note
from godwit_protocol.replay.retention import Policy
from godwit_protocol.replay.signatures import Trust, parse_trusted
from godwit_protocol.replay.verification import verify
from godwit_protocol.stored import MESSAGE_ID_HEADER

LOGS = Path(__file__).parents[1] / "golden" / "logs"
TRUST = Trust(is_signed=is_signed)
ALL = Policy(older_than_ns=0, unsigned=True)
FOR_EVER_NS = 2**62
OVER = ("v1-completed", "v1-aborted", "v1-rolled-back")
OTHERS = (
    subjects.inventory("host-1"),
    subjects.machine("m", "source", "machine_started"),
    subjects.addressed("host-1", "source_host", "machine", "m", "operator", "x"),
    subjects.register("m"),
    subjects.claim("m"),
)
"""What is no migration's, and stays."""
FREE = encode_claim(Claim(machine="m", migration=""))


async def tell(log: NatsLog, name: str) -> None:
    for message in LogFile(LOGS / f"{name}.ndjson").messages():
        message_id = message.headers[MESSAGE_ID_HEADER]
        last = await log.last(message.subject)
        await log.append(
            message.subject,
            message.data,
            message_id=message_id,
            expected_last_sequence=0 if last is None else last.sequence,
        )


class DiedError(BaseException):
    """As if the process had been killed just then: nothing is cleaned up."""


@pytest_asyncio.fixture
async def told(own_server: NatsServer) -> AsyncIterator[NatsLog]:
    """A log that may be archived, with three migrations that are over, and one in doubt."""
    log = await NatsLog.connect(own_server.url, name="test")
    await provision(log, archived=True)
    for name in (*OVER, "v1-in-doubt"):
        await tell(log, name)
    for subject in OTHERS:
        data = FREE if subject == subjects.claim("m") else b"\x80"
        await log.append(subject, data, message_id=uuid4().hex)
    yield log
    await log.close()


def id_of(name: str) -> str:
    return LogFile(LOGS / f"{name}.ndjson").head().of


def machine_of(name: str) -> str:
    first = next(iter(LogFile(LOGS / f"{name}.ndjson").messages()))
    return codec.decode(first.data).envelope.machine


async def left(log: NatsLog, name: str) -> int:
    filters = subjects.whole_migration(id_of(name))
    return len([stored async for stored in log.read(filters)])


async def archive(log: NatsLog, store: Store, policy: Policy = ALL) -> list[Fate]:
    return [
        fate
        async for fate in Archiving(log, NatsPurger(log), store, policy, TRUST).run(FOR_EVER_NS)
    ]


def whole(store: Store, name: str) -> bool:
    """Whether the archive holds every byte of it."""
    golden = list(LogFile(LOGS / f"{name}.ndjson").messages())
    if not store.holds(id_of(name)):
        return False
    read = store.read(id_of(name))
    return [(m.subject, m.data) for m in read] == [(m.subject, m.data) for m in golden]


async def assert_archived(log: NatsLog, store: Store) -> None:
    for name in OVER:
        assert whole(store, name)
        assert await left(log, name) == 0
    assert await left(log, "v1-in-doubt") > 0, "it has not ended"
    for subject in OTHERS:
        assert await log.last(subject) is not None


async def test_what_is_over_leaves_and_nothing_else(told: NatsLog, tmp_path: Path) -> None:
    store = Store(tmp_path / "archive")
    fates = await archive(told, store)
    assert [(fate.migration, fate.stays) for fate in fates] == [(id_of(n), "") for n in OVER]
    await assert_archived(told, store)
    assert await archive(told, store) == []
    assert [each.migration for each in store.all()] == sorted(map(id_of, OVER))
    for name in OVER:
        described = store.described(id_of(name))
        assert described.digest == str(note(store.read(id_of(name))))
        assert described.ended_ns > 0


@pytest.mark.parametrize("time", [1, 2])
@pytest.mark.parametrize("step", Step)
async def test_it_may_die_at_every_step(
    told: NatsLog, tmp_path: Path, step: Step, time: int
) -> None:
    place = tmp_path / "archive"
    reached: list[Step] = []

    def die(at: Step) -> None:
        reached.append(at)
        if at is step and reached.count(at) == time:
            raise DiedError

    dying = Archiving(told, NatsPurger(told), Store(place, die), ALL, TRUST, die)
    with pytest.raises(DiedError):
        async for _ in dying.run(FOR_EVER_NS):
            pass
    for name in OVER:
        golden = len(list(LogFile(LOGS / f"{name}.ndjson").messages()))
        assert await left(told, name) == golden or whole(Store(place), name)
    await archive(told, Store(place))
    await assert_archived(told, Store(place))
    assert not list(place.glob(".*")), "nothing half done is left"


class LatePurger(NatsPurger):
    """Something is written into the first migration when it has been copied."""

    def __init__(self, log: NatsLog, subject: str) -> None:
        super().__init__(log)
        self._told, self._subject = log, subject

    async def purge(self, subject: str, *, until_sequence: int) -> int:
        if self._subject:
            late, self._subject = self._subject, ""
            await self._told.append(late, b"\x80", message_id=uuid4().hex)
        return await super().purge(subject, until_sequence=until_sequence)


async def test_what_came_after_the_copy_stays_on_the_server(told: NatsLog, tmp_path: Path) -> None:
    late = subjects.migration(id_of("v1-completed"), "operator", "cancel_requested")
    purger = LatePurger(told, late)
    store = Store(tmp_path / "archive")
    async for _ in Archiving(told, purger, store, ALL, TRUST).run(FOR_EVER_NS):
        pass
    assert whole(store, "v1-completed")
    assert (await left(told, "v1-completed"), await left(told, "v1-aborted")) == (1, 0)
    assert await told.last(late) is not None


async def test_what_the_disk_does_not_hold_does_not_leave_the_server(
    told: NatsLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took the file, and lost its last message."""

    def write(path: Path, data: bytes) -> None:
        *kept, _ = gzip.decompress(data).splitlines(keepends=True)
        path.write_bytes(gzip.compress(b"".join(kept)))

    monkeypatch.setattr(store_module, "_write", write)
    before = await left(told, "v1-completed")
    with pytest.raises(CorruptError, match="does not hold what was written"):
        await archive(told, Store(tmp_path / "archive"))
    assert await left(told, "v1-completed") == before


async def test_what_only_strangers_have_signed_stays(told: NatsLog, tmp_path: Path) -> None:
    nobody_here = Trust(is_signed=is_signed, keys=parse_trusted(f"host-1 {'00' * 32}"))
    store = Store(tmp_path / "archive")
    archiving = Archiving(told, NatsPurger(told), store, ALL, nobody_here)
    fates = [fate async for fate in archiving.run(FOR_EVER_NS)]
    assert len(fates) == len(OVER)
    assert all(fate.stays.startswith("it does not verify") for fate in fates)


async def test_what_came_later_is_archived_too(told: NatsLog, tmp_path: Path) -> None:
    store = Store(tmp_path / "archive")

    def die(at: Step) -> None:
        if at is Step.DESCRIBED:
            raise DiedError

    with pytest.raises(DiedError):
        await archive(told, Store(tmp_path / "archive", die))
    (early,) = store.all()
    asked = LogFile(LOGS / "v1-completed.ndjson").messages()
    subject = next(iter(asked)).subject.replace("migration_requested", "cancel_requested")
    await told.append(subject, b"\x80", message_id=uuid4().hex)
    refused, *_ = await archive(told, store)
    assert refused.stays.startswith("it does not verify"), "it was no event"
    assert store.described(early.migration) == early
    assert await left(told, "v1-completed") == early.events + 1


async def test_what_cannot_be_read_keeps_only_what_it_may_be_about(
    told: NatsLog, tmp_path: Path
) -> None:
    store = Store(tmp_path / "archive")
    line = LedgerEntry(
        kind=EntryKind.HELD, reservation=id_of("v1-aborted"), machine="m", host="host-2"
    )
    for data in (b"rubbish", encode_entry(line)):
        await told.append(subjects.ledger("host-1"), data, message_id=uuid4().hex)
    machine = machine_of("v1-completed")
    for unreadable in (machine, "another"):
        await told.append(subjects.claim(unreadable), b"rubbish", message_id=uuid4().hex)
    fates = await archive(told, store)
    assert {fate.stays for fate in fates} == {"its machine's claim cannot be read"}
    await told.append(subjects.claim(machine), FREE, message_id=uuid4().hex)
    fates = await archive(told, store)
    assert {fate.migration: fate.stays for fate in fates} == dict.fromkeys(map(id_of, OVER), "")


async def test_an_archive_that_holds_another_story_is_not_relied_on(
    told: NatsLog, tmp_path: Path
) -> None:
    store = Store(tmp_path / "archive")
    await archive(told, store)
    asked, *rest = LogFile(LOGS / "v1-completed.ndjson").messages()
    for message in rest:
        await told.append(message.subject, message.data, message_id=uuid4().hex)
    await told.append(asked.subject, b"\x80", message_id=uuid4().hex)
    with pytest.raises(RefusedError, match="do not hold the same"):
        await archive(told, store)
    path = store.path(id_of("v1-aborted"))
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-200]))
    with pytest.raises(CorruptError):
        store.read(id_of("v1-aborted"))


def archived_golden(store: Store) -> list[str]:
    """The golden migrations that are over, kept in an archive."""
    for name in OVER:
        messages = list(LogFile(LOGS / f"{name}.ndjson").messages())
        store.keep(id_of(name), messages, verify(id_of(name), messages, trust=TRUST))
    return store.ids()


async def restore(log: NatsLog, store: Store, *migrations: str) -> list[Restored]:
    return [each async for each in Restoring(log, store, TRUST).run(migrations)]


async def test_what_is_restored_is_whole_and_what_was_begun_is_gone_on_with(
    own_log: NatsLog, tmp_path: Path
) -> None:
    store = Store(tmp_path / "archive")
    first, begun, other = archived_golden(store)
    (done,) = await restore(own_log, store, first)
    assert done.appended == done.events == len(store.read(first))
    filters = subjects.whole_migration(first)
    assert said([each async for each in own_log.read(filters)]) == said(store.read(first))
    assert [each.appended for each in await restore(own_log, store, first)] == [0]
    for message in store.read(begun)[:5]:
        message_id = message.headers[MESSAGE_ID_HEADER]
        await own_log.append(message.subject, message.data, message_id=message_id)
    assert [each.events - each.appended for each in await restore(own_log, store, begun)] == [5]
    second = store.read(other)[1]
    await own_log.append(second.subject, second.data, message_id=uuid4().hex)
    with pytest.raises(RefusedError, match="another story"):
        await restore(own_log, store, other)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("machine", "another"),
        ("outcome", "aborted"),
        ("ended_ns", 1),
        ("events", 7),
        ("first_sequence", 99),
        ("last_sequence", 99),
        ("digest", "19:" + "00" * 32),
        ("file_bytes", 1),
        ("file_sha256", "00" * 32),
        ("migration", "01a00000-0000-7000-8000-000000000000"),
    ],
)
async def test_a_manifest_that_says_otherwise_than_its_log_is_told(
    godwit: Godwit, tmp_path: Path, name: str, value: object
) -> None:
    store = Store(tmp_path)
    archived_golden(store)
    place = tmp_path / f"{id_of('v1-completed')}.manifest.json"
    told = json.loads(place.read_bytes())
    place.write_text(json.dumps(told | {name: value}))
    with pytest.raises(CorruptError, match=name):
        store.read(id_of("v1-completed"))
    checked = await godwit("archive", "check", str(tmp_path), url="")
    assert (checked.status, f"describes: {name}" in checked.out) == (11, True), checked.out
    assert "3 migrations: 1 wrong" in checked.out


async def test_a_clusters_log_takes_nothing_back_and_a_broken_archive_gives_nothing(
    own_log: NatsLog, tmp_path: Path
) -> None:
    store = Store(tmp_path / "archive")
    first, *_ = archived_golden(store)
    path = store.path(first)
    whole = path.read_bytes()
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:-200]))
    with pytest.raises(CorruptError):
        await restore(own_log, store, first)
    path.write_bytes(whole)
    await own_log.append(OTHERS[0], b"\x80", message_id=uuid4().hex)
    with pytest.raises(RefusedError, match="the log of a cluster"):
        await restore(own_log, store, first)
    assert [each async for each in own_log.read(subjects.whole_migration("*"))] == []


async def test_the_command_restores_all_into_an_empty_log(
    godwit: Godwit, own_server: NatsServer, own_log: NatsLog, tmp_path: Path
) -> None:
    place = tmp_path / "archive"
    archived_golden(Store(place))
    done = await godwit("archive", "restore", str(place), "--all", url=own_server.url)
    assert done.out.endswith("3 migrations in the log, whole\n"), done.err
    there = await all_migrations(own_log)
    assert there == await all_migrations(ArchivedLog(Store(place)))
    assert len(there) == len(OVER)


async def test_one_archives_at_a_time_and_what_has_left_is_passed_over(
    told: NatsLog, tmp_path: Path
) -> None:
    store = Store(tmp_path / "archive")
    with store.alone(), pytest.raises(ConflictError, match="another process archives"):
        await archive(told, store)
    elsewhere = Store(tmp_path / "elsewhere")
    archiving = Archiving(told, NatsPurger(told), store, ALL, TRUST)
    fates = archiving.run(FOR_EVER_NS)
    first = await anext(fates)
    await archive(told, elsewhere)
    rest = [fate async for fate in fates]
    assert not first.stays
    assert {fate.stays for fate in rest} == {"it has left the server meanwhile"}


async def test_an_archive_that_is_not_there_is_not_found(godwit: Godwit, tmp_path: Path) -> None:
    for command in ("list", "check"):
        told = await godwit("archive", command, str(tmp_path / "mistyped"))
        assert told.status == NotFoundError.exit_code
        assert "there is no archive" in told.err


async def test_the_policy_says_what_stays(told: NatsLog, tmp_path: Path) -> None:
    store = Store(tmp_path / "archive")
    young = Policy(older_than_ns=FOR_EVER_NS, unsigned=True)
    assert await archive(told, store, young) == []
    kept = Policy(older_than_ns=0, keep=2, unsigned=True)
    assert [fate.migration for fate in await archive(told, store, kept)] == [id_of(OVER[0])]
    careful = await archive(told, store, Policy(older_than_ns=0))
    assert all("has not signed its end" in fate.stays for fate in careful)
    assert [await left(told, name) > 0 for name in OVER] == [False, True, True]


async def test_what_a_claim_still_names_stays_until_the_machine_is_claimed_again(
    told: NatsLog, tmp_path: Path
) -> None:
    """Its coordinator died before it could free the claim. Without its end nobody could take it."""
    ended, subject = id_of("v1-aborted"), subjects.claim("m")
    claim = Claim(machine="m", migration=ended)
    await told.append(subject, encode_claim(claim), message_id=uuid4().hex)
    store, claims = Store(tmp_path / "archive"), Claims(told, SystemClock())
    fates = {fate.migration: fate.stays for fate in await archive(told, store)}
    assert fates.pop(ended) == "its machine's claim still names it"
    assert set(fates.values()) == {""}
    assert await claims.take("m", "a later one") == "a later one"
    (fate,) = await archive(told, store)
    assert (fate.migration, fate.stays) == (ended, "")


async def test_a_server_that_keeps_everything_gives_nothing_away(
    own_log: NatsLog, tmp_path: Path
) -> None:
    await tell(own_log, "v1-aborted")
    with pytest.raises(LogRequestError, match="purge"):
        await archive(own_log, Store(tmp_path / "archive"))
    assert await left(own_log, "v1-aborted") > 0


async def test_the_command_archives_lists_and_checks(
    godwit: Godwit, told: NatsLog, own_server: NatsServer, tmp_path: Path
) -> None:
    place = str(tmp_path / "archive")
    words = ("archive", "run", place, "--older-than", "0s", "--unsigned")
    shown = await godwit(*words, "--dry-run", url=own_server.url)
    assert shown.out.endswith("3 migrations would be archived, 0 left\n"), shown.err
    assert await left(told, "v1-completed") > 0
    done = await godwit(*words, "--json", url=own_server.url)
    assert [each["stays"] for each in json.loads(done.out)] == ["", "", ""], done.err
    assert (await godwit("archive", "check", place, url="")).out == "3 migrations: 0 wrong\n"
    listed = await godwit("archive", "list", place, url="")
    assert "3 migrations" in listed.out
    gone = id_of("v1-completed")
    file = Store(tmp_path / "archive").path(gone)
    shown = await godwit("migration", "show", gone[-8:], url=own_server.url)
    assert (shown.status, f"{file} on " in shown.out, "completed" in shown.out) == (0, True, True)
    elsewhere = await godwit("replay", "timeline", gone, url=own_server.url)
    assert (elsewhere.status, "has gone to the archive" in elsewhere.err) == (3, True)
    told_again = await godwit("replay", "verify", "--all", "--from", str(file), url="")
    assert "1 migration, 19 events: 0 wrong" in told_again.out, told_again.err
    file.write_bytes(b"\x1f\x8bnothing")
    assert (await godwit("archive", "check", place, url="")).status == 11
