"""A migration in doubt, as an operator is told of it, and what must be right before an order."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from conftest import COMMAND_S_MAX, Godwit
from told_log import Teller

from godwit.cli.resolve import resolved
from godwit.pictures import doubt
from godwit.pictures.reading import events
from godwit.runtime.clock import SystemClock
from godwit.runtime.lane import LaneWriter, Scope
from godwit.runtime.nats_server import NatsServer
from godwit_protocol import codec, subjects
from godwit_protocol import register as reg
from godwit_protocol.errors import (
    ConflictError,
    InDoubtError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
)
from godwit_protocol.events import Event, Lane
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events.loss import LossOrdered
from godwit_protocol.events.migration import AbortReason, Outcome
from godwit_protocol.projections import MigrationSummary, fold
from orders import preparation

WHY = AbortReason.DESTINATION_LOST
STUNNED = ev.MachineStunned(stopped_ns=1, checkpoint_bytes=1)
STAGED = ev.ImageStaged(
    pages=1, received_bytes=1, received_ns=1, staged_ns=2, verified=ev.Verify.OFF
)
ALARM = ev.DoubtRaised(message="no answer in phase awaiting_quarantine")


async def moving(teller: Teller, name: str) -> str:
    """A migration from host-1 to host-2 that is under way."""
    spec = await teller.start(name, "host-1")
    migration = await teller.request(name, "host-2")
    scope = Scope.of_migration(migration, name)
    await teller.tell(Lane.COORDINATOR, "coordinator-1", scope, preparation(spec))
    return migration


async def told(teller: Teller, name: str, *, source: list[Event], destination: list[Event]) -> str:
    """One that the hosts have said this of."""
    migration = await moving(teller, name)
    scope = Scope.of_migration(migration, name)
    await teller.tell(Lane.SOURCE, "host-1", scope, *source)
    await teller.tell(Lane.DESTINATION, "host-2", scope, *destination)
    return migration


async def pictured(teller: Teller, migration: str) -> doubt.Doubt:
    filters = subjects.whole_migration(migration)
    return doubt.picture(migration, [recorded async for recorded in events(teller.log, filters)])


async def test_show_says_in_doubt_and_names_the_command(
    godwit: Godwit, teller: Teller, unique_name: str
) -> None:
    migration = await told(teller, unique_name, source=[STUNNED, ALARM], destination=[STAGED])
    shown = await godwit("migration", "show", migration)
    assert "in doubt" in shown.out
    assert f"godwit migration resolve {migration} --run-on host-1|host-2" in shown.out
    described = json.loads((await godwit("migration", "show", migration, "--json")).out)
    assert described["outcome"] == "in_doubt"
    assert described["resolve"] in shown.out


async def test_without_a_terminal_it_says_what_may_be_lost_and_orders_nothing(
    godwit: Godwit, teller: Teller, unique_name: str
) -> None:
    migration = await told(teller, unique_name, source=[STUNNED, ALARM], destination=[STAGED])
    ended = await godwit("migration", "resolve", migration, "--run-on", "host-1")
    assert ended.status == RefusedError.exit_code
    assert "--yes" in ended.err
    for said in ("no answer in phase", "host-1 owns it (epoch 1)", "Nothing in the log proves"):
        assert said in ended.err
    types = [
        codec.decode(stored.data).envelope.type
        async for stored in teller.log.read(subjects.whole_migration(migration))
    ]
    assert ev.RunOrdered.TYPE not in types


@pytest.mark.parametrize(
    ("host", "outcome", "alarms", "error", "said"),
    [
        ("host-1", None, [], ConflictError, "it goes on by itself"),
        ("host-1", Outcome.COMPLETED, [ALARM], ConflictError, "has ended: completed"),
        ("host-3", None, [ALARM], InvalidInputError, "from host-1 to host-2"),
    ],
)
async def test_what_cannot_be_resolved(
    godwit: Godwit,
    teller: Teller,
    unique_name: str,
    host: str,
    outcome: Outcome | None,
    alarms: list[Event],
    error: type[ConflictError],
    said: str,
) -> None:
    migration = await told(teller, unique_name, source=[STUNNED, *alarms], destination=[])
    if outcome is not None:
        await teller.end(migration, unique_name, outcome)
    ended = await godwit("migration", "resolve", migration, "--run-on", host, "--yes")
    assert ended.status == error.exit_code
    assert said in ended.err


async def test_an_unknown_migration(godwit: Godwit, teller: Teller) -> None:
    ended = await godwit("migration", "resolve", "ffffffff", "--run-on", "host-1", "--yes")
    assert ended.status == NotFoundError.exit_code


async def test_a_refusal_of_the_host_is_the_commands(
    godwit: Godwit, teller: Teller, unique_name: str
) -> None:
    """The host answers the order at once: here, before anybody reads on."""
    migration = await told(teller, unique_name, source=[STUNNED, ALARM], destination=[STAGED])
    refusal = ev.RunOrderRefused(order="?", message="nothing proves that host-2 is powered off")

    async def refuse() -> None:
        async for stored in teller.log.tail([subjects.inbox("host-1", "source_host")]):
            ordered = codec.decode(stored.data)
            if ordered.envelope.migration == migration:
                assert isinstance(ordered.event, ev.RunOrdered)
                assert not ordered.event.other_is_off
                assert ordered.event.may_be_lost
                scope = Scope.of_migration(migration, unique_name)
                await teller.tell(Lane.SOURCE, "host-1", scope, refusal)
                return

    answering = asyncio.create_task(refuse())
    ended = await godwit("migration", "resolve", migration, "--run-on", "host-1", "--yes")
    await answering
    assert ended.status == InDoubtError.exit_code
    assert "nothing proves that host-2 is powered off" in ended.err
    assert "--other-is-off" in ended.err


OWNED = reg.started("m", "host-1", None)
MOVED = reg.moved(OWNED, "host-2", "m")
TAKEN_BACK = reg.taken_back(OWNED, "m")


@pytest.mark.parametrize(
    ("source", "destination", "record", "host", "said"),
    [
        ([STUNNED], [STAGED], OWNED, "host-1", ("is not known to have run it", "asked for proof")),
        ([STUNNED], [STAGED], MOVED, "host-1", ("whatever the machine did on host-2",)),
        ([STUNNED], [STAGED], OWNED, "host-2", ("host-1 is not known to have run it since",)),
        ([STUNNED], [STAGED], TAKEN_BACK, "host-2", ("whatever the machine did on host-1",)),
        ([STUNNED], [], OWNED, "host-2", ("it may have nothing",)),
        ([], [], OWNED, "host-1", ("it may still run there",)),
        (
            [STUNNED],
            [STAGED, ev.ImageQuarantined(reason=WHY)],
            OWNED,
            "host-1",
            ("host-2 is proven not to run the machine",),
        ),
        (
            [STUNNED, mev.MachineFailed(message="dead")],
            [STAGED],
            TAKEN_BACK,
            "host-2",
            ("host-1 is proven not to run the machine",),
        ),
        (
            [STUNNED, ev.HostFenced(target="host-2", vouched_by="ada")],
            [STAGED],
            OWNED,
            "host-1",
            ("host-2 is proven not to run the machine",),
        ),
        (
            [STUNNED],
            [STAGED, mev.MachineFailed(message="dead")],
            OWNED,
            "host-2",
            ("host-2 has said that it has nothing left", "host-1 is off the machine is lost"),
        ),
    ],
)
async def test_what_may_be_lost(
    teller: Teller,
    unique_name: str,
    source: list[Event],
    destination: list[Event],
    record: reg.RegisterRecord,
    host: str,
    said: tuple[str, ...],
) -> None:
    migration = await told(teller, unique_name, source=source, destination=destination)
    sentences = " ".join(doubt.losses(await pictured(teller, migration), record, host))
    for words in said:
        assert words in sentences


async def test_on_a_terminal_it_asks_first(
    nats_server: NatsServer, teller: Teller, unique_name: str
) -> None:
    migration = await told(teller, unique_name, source=[STUNNED, ALARM], destination=[STAGED])
    ours, theirs = os.openpty()
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / "godwit",
        *("migration", "resolve", migration, "--run-on", "host-1"),
        env={**os.environ, "GODWIT_NATS_URL": nats_server.url},
        stdin=theirs,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(theirs)
    os.write(ours, b"n\n")
    _, err = await asyncio.wait_for(process.communicate(), COMMAND_S_MAX)
    os.close(ours)
    assert process.returncode == RefusedError.exit_code
    assert f"Run {unique_name} on host-1?" in err.decode()
    assert "nothing was ordered" in err.decode()


GIVE_UP = ("--both-off-for-good", "--yes")


@pytest.mark.parametrize("arguments", [(), ("--run-on", "host-1", "--both-off-for-good")])
async def test_one_of_the_two_orders_is_needed(godwit: Godwit, arguments: tuple[str, ...]) -> None:
    ended = await godwit("migration", "resolve", "ffffffff", *arguments)
    assert ended.status == InvalidInputError.exit_code


@pytest.mark.parametrize("is_proven", [False, True])
async def test_a_machine_is_given_up_by_the_coordinators_word(
    godwit: Godwit, teller: Teller, unique_name: str, is_proven: bool
) -> None:
    """Before anything is ordered it says what is lost, and whose being off is vouched for."""
    facts = [STAGED, mev.MachineFailed(message="dead")]
    migration = await told(teller, unique_name, source=[STUNNED, ALARM], destination=facts)
    scope = Scope.of_migration(migration, unique_name)
    refusal = ev.RunOrderRefused(order="?", message="host-2 answers: it is not off")
    ordered: list[LossOrdered] = []

    async def answer() -> None:
        async for stored in teller.log.tail(subjects.whole_migration(migration)):
            event = codec.decode(stored.data).event
            if isinstance(event, LossOrdered):
                ordered.append(event)
                if is_proven:
                    await teller.end(migration, unique_name, Outcome.ABORTED)
                else:
                    await teller.tell(Lane.COORDINATOR, "coordinator-1", scope, refusal)
                return

    answering = asyncio.create_task(answer())
    ended = await godwit("migration", "resolve", migration, *GIVE_UP)
    await answering
    assert ended.status == (0 if is_proven else InDoubtError.exit_code)
    assert ("host-2 answers" in ended.err) is not is_proven
    (order,) = ordered
    assert f"The machine {unique_name} is lost" in order.may_be_lost[0]
    assert "host-2 is proven to have nothing to run." in order.may_be_lost
    assert "You vouch that host-1 is powered off for good." in order.may_be_lost
    assert "".join(order.may_be_lost).replace(" ", "")[:40] in ended.err.replace(" ", "")
    assert order.requested_by


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (ev.MigrationEnded(outcome=Outcome.COMPLETED), "machine m runs on host-2"),
        (ev.MigrationEnded(outcome=Outcome.ABORTED, reason=WHY), "machine m runs on host-1"),
        (
            ev.MigrationEnded(outcome=Outcome.ABORTED, reason=AbortReason.SUPERSEDED),
            "machine m has gone on since: see 'godwit machine show m'",
        ),
        (
            ev.MigrationEnded(outcome=Outcome.ABORTED, reason=AbortReason.MACHINE_FAILED),
            "machine m does not run any more: 'godwit machine stop m', then start it anew",
        ),
        (
            ev.MigrationEnded(
                outcome=Outcome.ABORTED, reason=AbortReason.MACHINE_FAILED, lost_epoch=3
            ),
            "machine m is lost: it can be started anew",
        ),
    ],
)
def test_what_has_become_of_the_machine_is_said_as_far_as_it_is_known(
    ended: ev.MigrationEnded, said: str
) -> None:
    before = MigrationSummary(id="1", machine="m", source="host-1", destination="host-2")
    writer = LaneWriter(SystemClock(), Lane.COORDINATOR, "c", Scope.of_migration("1", "m"))
    summary = fold(before, codec.decode(writer.seal(ended).data))
    assert resolved(summary) == f"migration 1 is resolved ({ended.outcome}); {said}"


async def test_what_goes_on_by_itself_is_not_given_up(
    godwit: Godwit, teller: Teller, unique_name: str
) -> None:
    migration = await told(teller, unique_name, source=[STUNNED], destination=[])
    ended = await godwit("migration", "resolve", migration, *GIVE_UP)
    assert ended.status == ConflictError.exit_code
