"""``godwit migration resolve``: an operator ends a doubt, knowing what may be lost."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Final

import typer

from godwit.pictures import doubt, reading
from godwit.pictures.doubt import Doubt
from godwit.pictures.migrations import as_json, find_id, find_migration
from godwit.pictures.narrative import NOT_KNOWN_TO_RUN
from godwit_protocol import subjects
from godwit_protocol.errors import (
    ConflictError,
    DeadlineError,
    InDoubtError,
    InvalidInputError,
    RefusedError,
)
from godwit_protocol.events import Lane, Recorded
from godwit_protocol.events import migration as ev
from godwit_protocol.events.loss import LossOrdered
from godwit_protocol.events.migration import AbortReason, Outcome
from godwit_protocol.projections import MigrationSummary
from godwit_protocol.register import RegisterRecord

from . import completion, output
from .connection import (
    DirectoryOption,
    JsonOption,
    append_as_operator,
    open_log,
    requested_by,
    run,
)
from .migration_options import MigrationArgument

if TYPE_CHECKING:
    from godwit.runtime.event_log import EventLog
    from godwit_protocol.roles.effects import Address

RESOLVED_S_MAX: Final = 180.0
"""A fencing program may take a minute, a source that does not answer half a minute more."""


def resolve(
    migration: MigrationArgument,
    run_on: Annotated[
        str,
        typer.Option(
            metavar="HOST",
            help="Which of its two hosts is to run the machine.",
            autocompletion=completion.hosts,
        ),
    ] = "",
    both_off_for_good: Annotated[
        bool,
        typer.Option(
            "--both-off-for-good",
            help="Instead of --run-on: vouch that both hosts are powered off and will not come"
            " back, and give the machine up. Where a fencing program is configured, it is asked"
            " instead.",
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Accept what may be lost, without being asked.")
    ] = False,
    other_is_off: Annotated[
        bool,
        typer.Option(
            "--other-is-off",
            help="Vouch that the other host is powered off. Where a fencing program is configured,"
            " it is asked instead.",
        ),
    ] = False,
    directory: DirectoryOption = None,
    as_json_: JsonOption = False,
) -> None:
    """End a migration in doubt: run the machine on one of its hosts, or give it up with both."""
    if bool(run_on) is both_off_for_good:
        raise InvalidInputError("one of --run-on HOST and --both-off-for-good is needed, not both")

    async def work() -> MigrationSummary:
        async with open_log(directory) as log:
            if both_off_for_good:
                return await _give_up(log, await find_id(log, migration), asks=not yes)
            found, record = await find_doubt(log, await find_id(log, migration), run_on)
            may_be_lost = doubt.losses(found, record, run_on)
            _tell(found, record, may_be_lost)
            vouched = other_is_off
            if not yes:
                vouched = _confirm(found, run_on, vouched=other_is_off)
            order = ev.RunOrdered(
                target=run_on,
                may_be_lost=may_be_lost,
                other_is_off=vouched,
                requested_by=requested_by(),
            )
            return await order_run(log, found, order)

    summary = run(work())
    if as_json_:
        output.print_json(as_json(summary))
    else:
        output.print_line(resolved(summary))


def resolved(summary: MigrationSummary) -> str:
    """What has become of the migration and of its machine, as far as its end tells."""
    machine = summary.machine
    if summary.lost_epoch:
        now = "is lost: it can be started anew"
    elif summary.reason is AbortReason.MACHINE_FAILED:
        now = f"does not run any more: 'godwit machine stop {machine}', then start it anew"
    elif summary.reason in NOT_KNOWN_TO_RUN:
        now = f"has gone on since: see 'godwit machine show {machine}'"
    else:
        has_moved = summary.outcome is Outcome.COMPLETED
        now = f"runs on {summary.destination if has_moved else summary.source}"
    return f"migration {summary.id} is resolved ({summary.outcome}); machine {machine} {now}"


async def find_doubt(
    log: EventLog, migration: str, run_on: str = ""
) -> tuple[Doubt, RegisterRecord | None]:
    """The migration and its machine's register, if the one is in doubt and ``run_on``, where it is
    given, one of its hosts.

    Raises ``ConflictError`` if it has ended, or is not in doubt, and ``InvalidInputError``.
    """
    from godwit.host.registers import Registers

    told = [recorded async for recorded in reading.events(log, subjects.whole_migration(migration))]
    found = doubt.picture(migration, told)
    summary = found.summary
    if summary.outcome in {Outcome.COMPLETED, Outcome.ABORTED}:
        raise ConflictError(
            f"migration {migration} has ended: {summary.outcome}",
            hint=f"see 'godwit machine show {summary.machine}'",
        )
    hosts = (summary.source, summary.destination)
    if run_on and run_on not in hosts:
        raise InvalidInputError(
            f"host {run_on!r} is not one of the migration's two",
            hint=f"it is from {summary.source} to {summary.destination}",
        )
    if summary.outcome is not Outcome.IN_DOUBT:
        raise ConflictError(
            f"migration {migration} is not in doubt: it goes on by itself",
            hint=f"'godwit migration cancel {migration}' asks for its end",
        )
    return found, (await Registers(log).read(summary.machine)).record


async def _give_up(log: EventLog, migration: str, *, asks: bool) -> MigrationSummary:
    found, record = await find_doubt(log, migration)
    may_be_lost = doubt.losses_of_all(found)
    _tell(found, record, may_be_lost)
    if asks:
        hosts = f"{found.source.host} and {found.destination.host}"
        _ask(f"Are {hosts} powered off for good, and is {found.summary.machine} to be given up?")
    return await order_loss(
        log, found, LossOrdered(may_be_lost=may_be_lost, requested_by=requested_by())
    )


async def order_loss(log: EventLog, found: Doubt, order: LossOrdered) -> MigrationSummary:
    """Give the order and wait until the migration has ended; return it then.

    Raises ``InDoubtError`` if the coordinator has no proof that both hosts are off,
    ``DeadlineError``, ``UnreachableError``.
    """
    from godwit.runtime.lane import Scope

    summary = found.summary
    scope = Scope.of_migration(summary.id, summary.machine)
    sequence = await append_as_operator(log, scope, order)
    ended = await _answer(log, summary.id, sequence, _is_coordinators)
    if isinstance(ended.event, ev.RunOrderRefused):
        raise InDoubtError(
            f"the machine is not given up: {ended.event.message}",
            hint="nothing has changed; see docs/in-doubt.md",
        )
    return await find_migration(log, summary.id)


def _is_coordinators(said: Recorded) -> bool:
    return said.envelope.lane is Lane.COORDINATOR


async def order_run(log: EventLog, found: Doubt, order: ev.RunOrdered) -> MigrationSummary:
    """Give the order and wait until the migration has ended; return it then.

    Raises ``InDoubtError`` if the host does not do it, ``DeadlineError``, ``UnreachableError``.
    """
    from godwit.runtime.lane import Scope

    summary = found.summary
    scope = Scope.of_migration(summary.id, summary.machine)
    sequence = await append_as_operator(log, scope, order, to=_service(found, order.target))
    ended = await _answer(
        log, summary.id, sequence, lambda said: said.envelope.host == order.target
    )
    if isinstance(ended.event, ev.MigrationEnded):
        return await find_migration(log, summary.id)
    event = ended.event
    assert isinstance(event, ev.RunOrderRefused | ev.DoubtRaised)
    other = found.other(order.target).host
    raise InDoubtError(
        f"{order.target} did not run the machine: {event.message}",
        hint=f"nothing was lost; power {other} off and add --other-is-off, or bring it back",
    )


async def _answer(
    log: EventLog, migration: str, after: int, is_asked: Callable[[Recorded], bool]
) -> Recorded:
    """The first event after the order that says what came of it: the end, or a refusal by whoever
    ``is_asked``.
    """
    filters = subjects.whole_migration(migration)
    source = reading.events(log, filters, after_sequence=after, follow=True)
    try:
        async with asyncio.timeout(RESOLVED_S_MAX), aclosing(source):
            async for recorded in source:
                refuses = isinstance(recorded.event, ev.RunOrderRefused | ev.DoubtRaised)
                if refuses and is_asked(recorded):
                    return recorded
                if isinstance(recorded.event, ev.MigrationEnded):
                    return recorded
    except TimeoutError:
        pass
    raise DeadlineError(
        f"migration {migration} has not ended within {RESOLVED_S_MAX:g} s of the order",
        hint="the order waits for its host, and is carried out when its services are up",
    )


def _service(found: Doubt, host: str) -> Address:
    from godwit_protocol.roles.effects import Address, Service

    is_source = host == found.source.host
    return Address(host, Service.SOURCE_HOST if is_source else Service.DESTINATION_HOST)


def _tell(found: Doubt, record: RegisterRecord | None, may_be_lost: tuple[str, ...]) -> None:
    """Say how things stand, on standard error."""
    facts = [("machine", found.summary.machine), *doubt.state_of_things(found, record)]
    for name, value in (*facts, *(("by this", sentence) for sentence in may_be_lost)):
        output.stderr().print(f"{name:12}{value}", soft_wrap=True)


def _confirm(found: Doubt, run_on: str, *, vouched: bool) -> bool:
    """Ask whether to go on, and whether the other host is off. Raises ``RefusedError``."""
    machine, other = found.summary.machine, found.other(run_on)
    _ask(f"Run {machine} on {run_on}?")
    if vouched or found.is_proven_still(other):
        return vouched
    return _confirmed(f"Do you know that {other.host} is powered off?")


def _ask(question: str) -> None:
    """Raises ``RefusedError`` if the answer is no, or nobody is there to answer."""
    if not sys.stdin.isatty():
        raise RefusedError(
            "nobody can be asked whether to accept what may be lost: this is no terminal",
            hint="add --yes",
        )
    if not _confirmed(question):
        raise RefusedError("nothing was ordered", hint="nothing has changed")


def _confirmed(question: str) -> bool:
    """Ctrl-C ends it: the loop's own handler would wait for the answer."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return typer.confirm(question, err=True)
    finally:
        signal.signal(signal.SIGINT, before)
