"""The command as its users see it: output, messages and exit codes, each run a real process."""

import asyncio
import json
import re
from contextlib import aclosing
from datetime import date, datetime

import pytest
from conftest import Godwit, Here
from told_log import Teller

from godwit.pictures.reading import messages
from godwit.runtime.lane import Scope
from godwit_protocol import codec, subjects
from godwit_protocol.errors import (
    AbortedError,
    ConflictError,
    GuestError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnreachableError,
)
from godwit_protocol.events import Lane
from godwit_protocol.events import bandwidth as bev
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import AbortReason, Outcome

COMPLETED_S_MAX = 60.0


@pytest.mark.parametrize(
    ("arguments", "kind", "told"),
    [
        (("machine", "list"), NotFoundError, "godwit up"),
        (("machine", "start", "m", "--guest", "a:B", "--host", "h", "--ram", "8XB"),
         InvalidInputError, "write it like 256MiB"),
        (("machine", "start", "m", "--guest", "a:B", "--host", "h", "--vgpu", "big"),
         InvalidInputError, "H100XM-4C"),
        (("machine", "start", "m", "--guest", "none.py:B", "--host", "h"),
         NotFoundError, "none.py"),
        (("machine", "start", "M!", "--guest", "a:B", "--host", "h"), InvalidInputError, "a-z"),
        (("migrate", "m", "--to", "h", "--stun-limit", "5"), InvalidInputError, "500ms"),
        (("machine", "no-such-command"), InvalidInputError, "no-such-command"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_message(
    here: Here, arguments: tuple[str, ...], kind: type[InvalidInputError], told: str
) -> None:
    ended = here(*arguments)
    assert ended.status == kind.exit_code
    assert told in ended.err
    assert "Traceback" not in ended.err
    assert not ended.out


async def test_an_event_log_that_does_not_answer(godwit: Godwit) -> None:
    ended = await godwit("gpus", url="nats://127.0.0.1:9")
    assert ended.status == UnreachableError.exit_code
    assert "GODWIT_NATS_URL" in ended.err


@pytest.mark.parametrize(
    "words",
    ["", "demo", "up", "machine start", "machine ask", "migrate", "migration cancel", "events"],
)
def test_every_command_has_help(here: Here, words: str) -> None:
    ended = here(*words.split(), "--help")
    assert ended.status == 0
    assert "Usage:" in ended.out


async def test_what_is_not_there(godwit: Godwit, teller: Teller, unique_name: str) -> None:
    ended = await godwit("machine", "show", unique_name)
    assert (ended.status, ended.out) == (NotFoundError.exit_code, "")
    assert f"no machine '{unique_name}'" in ended.err


async def test_an_unknown_host_is_refused_with_the_hosts_that_there_are(
    godwit: Godwit, teller: Teller, unique_name: str
) -> None:
    await teller.announce(unique_name)
    arguments = ("machine", "start", "new", "--guest", "a:B", "--host", "elsewhere")
    ended = await godwit(*arguments)
    assert ended.status == NotFoundError.exit_code
    assert unique_name in ended.err


async def test_simulated_gpus_are_called_so_in_every_output(
    godwit: Godwit, teller: Teller, unique_name: str
) -> None:
    gpu = mev.GpuInventory(index=0, model="L40S-48GB", memory_bytes=48 * 2**30, simulated=True)
    await teller.announce(unique_name, gpu)
    text, data = await asyncio.gather(godwit("gpus"), godwit("gpus", "--json"))
    (line,) = [line for line in text.out.splitlines() if unique_name in line]
    assert "L40S-48GB SIMULATED" in line
    assert all(found["simulated"] for found in json.loads(data.out) if found["host"] == unique_name)


async def test_the_story_of_a_migration(godwit: Godwit, teller: Teller, unique_name: str) -> None:
    migration = await teller.request(unique_name, "host-2")
    await teller.log.append(
        subjects.migration(migration, "source", "noise"), b"\xc1", message_id=migration
    )
    await teller.end(migration, unique_name, Outcome.ABORTED, AbortReason.HOST_UNKNOWN)
    ended = await godwit("events", "--migration", migration[-12:])
    today, requested, unreadable, last = ended.out.splitlines()
    assert date.fromisoformat(today) <= datetime.now().date()
    assert "operator@cli-test" in requested
    assert f"asked to move machine {unique_name} to host-2" in requested
    assert "unreadable" in unreadable
    assert last.endswith("the migration ended: aborted, because: host unknown")


async def test_events_as_json_carry_the_whole_envelope(
    godwit: Godwit, teller: Teller, unique_name: str
) -> None:
    await teller.start(unique_name, "host-1")
    ended = await godwit("events", "--machine", unique_name, "--json")
    (line,) = ended.out.splitlines()
    told = json.loads(line)
    assert told["type"] == "machine_started"
    assert told["prev_hash"] == "00" * 32
    assert told["body"]["spec"]["name"] == unique_name
    assert {"sequence", "id", "lane", "host", "lane_sequence", "wall_ns", "boot"} <= set(told)


async def test_a_host_that_refuses_gives_the_kind_of_its_refusal(
    godwit: Godwit, teller: Teller, unique_name: str
) -> None:
    await teller.announce(unique_name)

    async def refuse() -> None:
        inbox = (subjects.inbox(unique_name, "source_host"),)
        async with aclosing(messages(teller.log, inbox, follow=True)) as requests:
            async for stored in requests:
                event = codec.decode(stored.data).event
                assert isinstance(event, mev.MachineStartRequested)
                refusal = mev.MachineStartRefused(
                    start=event.start, code=GuestError.code, message="no class B", hint="look again"
                )
                scope = Scope.of_machine(event.spec.name)
                await teller.tell(Lane.SOURCE, unique_name, scope, refusal)
                return

    ended, _ = await asyncio.gather(
        godwit("machine", "start", "new", "--guest", "a:B", "--host", unique_name), refuse()
    )
    assert ended.status == GuestError.exit_code
    assert "no class B" in ended.err
    assert "look again" in ended.err


async def test_migrate_waits_for_the_end_and_says_why_it_was_refused(
    godwit: Godwit, teller: Teller, unique_name: str
) -> None:
    await teller.announce(unique_name)
    await teller.start(unique_name, "host-1")

    async def refuse() -> None:
        asked = (subjects.migration("*", "operator", ev.MigrationRequested.TYPE),)
        async with aclosing(messages(teller.log, asked, follow=True)) as requests:
            async for stored in requests:
                recorded = codec.decode(stored.data)
                if recorded.envelope.machine == unique_name:
                    assert isinstance(recorded.event, ev.MigrationRequested)
                    assert recorded.event.verify is ev.Verify.WIRE  # unless told otherwise
                    migration = recorded.envelope.migration
                    await teller.end(
                        migration, unique_name, Outcome.ABORTED, AbortReason.RESERVATION_REFUSED
                    )
                    return

    ended, _ = await asyncio.gather(
        godwit("migrate", unique_name, "--to", unique_name, "--json"), refuse()
    )
    assert ended.status == RefusedError.exit_code
    told = json.loads(ended.out)
    assert (told["outcome"], told["reason"]) == ("aborted", "reservation_refused")
    assert "reservation refused" in ended.err


async def test_a_cancel_is_asked_for_once_and_waits_for_the_end(
    godwit: Godwit, teller: Teller, unique_name: str
) -> None:
    migration = await teller.request(unique_name, "host-2")
    asked = (subjects.migration(migration, "operator", ev.CancelRequested.TYPE),)

    async def obey() -> None:
        async with aclosing(messages(teller.log, asked, follow=True)) as requests:
            async for _ in requests:
                await teller.end(migration, unique_name, Outcome.ABORTED, AbortReason.CANCELLED)
                return

    first, second, _ = await asyncio.gather(
        godwit("migration", "cancel", migration),
        godwit("migration", "cancel", migration[-10:]),
        obey(),
    )
    assert (first.status, second.status) == (0, 0)
    assert f"machine {unique_name} stays" in first.out
    again = await godwit("migration", "cancel", migration)
    assert again.status == 0
    assert len([stored async for stored in teller.log.read(asked)]) == 1


async def test_a_cancel_that_comes_too_late_says_so(
    godwit: Godwit, teller: Teller, unique_name: str
) -> None:
    migration = await teller.request(unique_name, "host-2")
    await teller.end(migration, unique_name, Outcome.COMPLETED)
    ended = await godwit("migration", "cancel", migration)
    assert ended.status == ConflictError.exit_code
    assert "too late" in ended.err


async def test_a_bandwidth_is_changed_by_an_order_or_not_at_all(
    godwit: Godwit, teller: Teller, unique_name: str
) -> None:
    migration = await teller.request(unique_name, "host-2")
    asked = (subjects.migration(migration, "operator", bev.BandwidthRequested.TYPE),)

    async def obey() -> bev.BandwidthRequested:
        async with aclosing(messages(teller.log, asked, follow=True)) as requests:
            async for stored in requests:
                event = codec.decode(stored.data).event
                assert isinstance(event, bev.BandwidthRequested)
                ordered = bev.BandwidthOrdered(
                    change=1,
                    order=event.order,
                    bandwidth_bytes_per_second=event.bandwidth_bytes_per_second,
                    requested_by=event.requested_by,
                )
                scope = Scope.of_migration(migration, unique_name)
                await teller.tell(Lane.COORDINATOR, "coordinator-1", scope, ordered)
                return event
        raise AssertionError("a tail has no end")

    changed, requested = await asyncio.gather(
        godwit("migration", "set", migration, "--bandwidth", "5Gbit"), obey()
    )
    assert changed.status == 0, changed.err
    assert "5Gbit" in changed.out
    assert requested.bandwidth_bytes_per_second == 625_000_000
    shown = await godwit("migration", "show", migration)
    assert f"5Gbit, as {requested.requested_by} asked while it ran" in shown.out
    wrong = await godwit("migration", "set", migration, "--bandwidth", "5")
    assert wrong.status == InvalidInputError.exit_code
    await teller.end(migration, unique_name, Outcome.COMPLETED)
    late = await godwit("migration", "set", migration, "--bandwidth", "none")
    assert late.status == ConflictError.exit_code
    assert "too late" in late.err
    unknown = await godwit("migration", "set", unique_name, "--bandwidth", "none")
    assert unknown.status == NotFoundError.exit_code
    assert len([stored async for stored in teller.log.read(asked)]) == 1


async def test_show_of_an_aborted_migration_is_no_failure(
    godwit: Godwit, teller: Teller, unique_name: str
) -> None:
    migration = await teller.request(unique_name, "host-2")
    await teller.end(migration, unique_name, Outcome.ABORTED, AbortReason.CANCELLED)
    shown = await godwit("migration", "show", migration)
    assert shown.status == 0 != AbortedError.exit_code
    assert "cancelled" in shown.out


async def test_machine_names_are_completed(
    godwit: Godwit, teller: Teller, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await teller.start(unique_name, "host-1")
    monkeypatch.setenv("_GODWIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"godwit machine show {unique_name[:6]}")
    monkeypatch.setenv("COMP_CWORD", "3")
    async with asyncio.timeout(COMPLETED_S_MAX):  # a slow log is no names, until Tab is hit again
        while unique_name not in (await godwit()).out.split():
            pass


def test_the_version_is_told(here: Here) -> None:
    ended = here("--version")
    assert ended.status == 0
    assert re.fullmatch(r"godwit \d+\.\d+\.\d+\n", ended.out)
