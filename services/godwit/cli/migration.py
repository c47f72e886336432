"""``godwit migrate`` and ``godwit migration``: ask for a migration, watch, show and cancel it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from godwit.pictures import archived, doubt, reading
from godwit.pictures.figures import count, day_and_clock, duration, rate, short_id, size
from godwit.pictures.machines import find_live_machine
from godwit.pictures.migrations import (
    all_migrations,
    as_json,
    error_of,
    find_id,
    find_migration,
    throughput_bytes_per_second,
)
from godwit.pictures.narrative import NOT_KNOWN_TO_RUN, reason
from godwit.pictures.stun import NONE as NO_STUN
from godwit.pictures.stun import stun, stun_parts
from godwit_protocol.errors import ConflictError, DeadlineError
from godwit_protocol.estimation.admission import AdmissionPolicy
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import Outcome, Verify
from godwit_protocol.pacing import format_bandwidth, parse_bandwidth
from godwit_protocol.projections import MigrationSummary
from godwit_protocol.quantities import parse_duration_ns
from godwit_protocol.replay.archived import Archived

from . import dry_run, output
from .bandwidth import set_bandwidth
from .connection import (
    DirectoryOption,
    JsonOption,
    append_as_operator,
    find_catalogue,
    open_log,
    requested_by,
    run,
)
from .log_file import FromOption, open_source
from .migration_options import (
    AdmissionOption,
    BandwidthOption,
    DeadlineOption,
    DryRunOption,
    MachineArgument,
    MigrationArgument,
    Precopy,
    PrecopyOption,
    SlowMaxOption,
    StunLimitMaxOption,
    StunLimitOption,
    ToOption,
    VerifyOption,
    WaitOption,
)
from .progress import SilentDisplay, display_for, follow
from .resolve import resolve

if TYPE_CHECKING:
    from godwit.runtime.event_log import EventLog

END_GRACE_S: Final = 90.0
"""After its own deadline, how long a migration may take to be ended by its coordinator."""
CANCEL_S_MAX: Final = 60.0
ROUNDS_MAX: Final = ev.Limits().rounds_max


app = typer.Typer(no_args_is_help=True, help="List, show, change and cancel migrations.")


def migrate(
    name: MachineArgument,
    to: ToOption,
    stun_limit: StunLimitOption = "500ms",
    stun_limit_max: StunLimitMaxOption = "0ms",
    slow_max: SlowMaxOption = 80,
    bandwidth: BandwidthOption = "none",
    precopy: PrecopyOption = Precopy.ON,
    deadline: DeadlineOption = "10m",
    verify: VerifyOption = Verify.WIRE,
    admission: AdmissionOption = None,
    wait: WaitOption = True,
    dry: DryRunOption = False,
    directory: DirectoryOption = None,
    as_json_: JsonOption = False,
) -> None:
    """Move a running machine to another host."""
    limits = ev.Limits(
        stun_limit_ns=parse_duration_ns(stun_limit),
        stun_limit_max_ns=parse_duration_ns(stun_limit_max),
        slow_percent_max=slow_max,
        bandwidth_bytes_per_second=parse_bandwidth(bandwidth),
        deadline_ns=parse_duration_ns(deadline),
        rounds_max=ROUNDS_MAX if precopy is Precopy.ON else 0,
    )
    if dry:
        _try_out(directory, name, to, limits, admission, as_json=as_json_)
        return

    async def work() -> MigrationSummary:
        async with open_log(directory) as log:
            migration = await request_migration(log, name, to, limits, verify, admission)
            if not wait:
                return await find_migration(log, migration)
            return await _watch(log, migration, limits, silent=as_json_)

    _tell(run(work()), wait=wait, as_json_=as_json_)


def _tell(summary: MigrationSummary, *, wait: bool, as_json_: bool) -> None:
    """Print how it went, or that it was asked for. Raises if it failed."""
    if as_json_:
        output.print_json(as_json(summary))
    elif not wait:
        output.print_line(summary.id)
    else:
        print_result(summary)
    if error := error_of(summary):
        raise error


def _try_out(
    directory: Path | None,
    name: str,
    to: str,
    limits: ev.Limits,
    admission: AdmissionPolicy | None,
    *,
    as_json: bool,
) -> None:
    catalogue, policy = find_catalogue(), admission or AdmissionPolicy.REFUSE

    async def work() -> dry_run.DryRun:
        async with open_log(directory) as log:
            return await dry_run.dry_run(log, catalogue, name, to, limits, policy)

    found = run(work())
    if as_json:
        output.print_json(found.as_json())
    else:
        dry_run.show(found)
    if error := dry_run.error_of(found):
        raise error


@app.command("list")
def list_migrations(
    file: FromOption = None, directory: DirectoryOption = None, as_json_: JsonOption = False
) -> None:
    """List all migrations, the latest last."""

    async def work() -> list[MigrationSummary]:
        async with open_source(directory, file) as log:
            return await all_migrations(log)

    summaries = run(work())
    if as_json_:
        output.print_json([as_json(summary) for summary in summaries])
        return
    columns = (
        *("ID", "REQUESTED", "MACHINE", "FROM", "TO"),
        *("OUTCOME", ">ROUNDS", ">SENT", ">STUN", "REASON"),
    )
    rows = [_row(summary) for summary in summaries]
    output.print_table(columns, rows, "no migration was ever asked for")


@app.command()
def show(
    migration: MigrationArgument,
    file: FromOption = None,
    directory: DirectoryOption = None,
    as_json_: JsonOption = False,
) -> None:
    """Show one migration: how it went, and where each millisecond of the stun went; or where the
    archive is that it has gone to.
    """

    async def work() -> MigrationSummary | Archived:
        async with open_source(directory, file) as log:
            try:
                return await find_migration(log, migration)
            except archived.ArchivedError as error:
                return error.gone

    summary = run(work())
    if isinstance(summary, Archived):
        if as_json_:
            output.print_json(archived.as_json(summary))
        else:
            output.print_facts(archived.facts(summary))
    elif as_json_:
        output.print_json(as_json(summary))
    else:
        print_result(summary)


@app.command()
def cancel(
    migration: MigrationArgument, directory: DirectoryOption = None, as_json_: JsonOption = False
) -> None:
    """Cancel a migration: the machine stays where it is, if it is not too late."""

    async def work() -> MigrationSummary:
        async with open_log(directory) as log:
            return await cancel_migration(log, await find_id(log, migration))

    summary = run(work())
    if as_json_:
        output.print_json(as_json(summary))
    if summary.outcome is Outcome.COMPLETED:
        raise ConflictError(
            f"too late: migration {summary.id} has completed",
            hint=f"machine {summary.machine} runs on {summary.destination}",
        )
    is_elsewhere = summary.outcome is Outcome.IN_DOUBT or summary.reason in NOT_KNOWN_TO_RUN
    if is_elsewhere and (error := error_of(summary)):
        raise error
    if not as_json_:
        output.print_line(
            f"migration {summary.id} was aborted ({reason(summary.reason)});"
            f" machine {summary.machine} stays on {summary.source or 'its host'}"
        )


app.command()(resolve)
app.command("set")(set_bandwidth)


async def request_migration(
    log: EventLog,
    name: str,
    to: str,
    limits: ev.Limits,
    verify: Verify = Verify.WIRE,
    admission: AdmissionPolicy | None = None,
) -> str:
    """Ask for a migration; return its id. Raises ``NotFoundError``, ``UnreachableError``."""
    from godwit.runtime.clock import SystemClock
    from godwit.runtime.lane import Scope

    await find_live_machine(log, name)
    await reading.require_host(log, to)
    migration = SystemClock().new_id()
    requested = ev.MigrationRequested(
        machine=name,
        destination=to,
        limits=limits,
        verify=verify,
        requested_by=requested_by(),
        admission=admission,
    )
    await append_as_operator(log, Scope.of_migration(migration, name), requested)
    return migration


async def cancel_migration(log: EventLog, migration: str) -> MigrationSummary:
    """Ask for the end of a migration and wait for it. Asking twice changes nothing.

    Returns it as it ended, which may be before the cancel came. Raises ``DeadlineError``,
    ``UnreachableError``.
    """
    from godwit.runtime.event_log import AppendConflictError
    from godwit.runtime.lane import Scope

    summary = await find_migration(log, migration)
    if summary.outcome in {Outcome.COMPLETED, Outcome.ABORTED}:
        return summary
    scope = Scope.of_migration(migration, summary.machine)
    event = ev.CancelRequested(requested_by=requested_by())
    with suppress(AppendConflictError):  # somebody has asked for it before
        await append_as_operator(log, scope, event, once=True)
    return await follow(log, migration, SilentDisplay(), wait_s=CANCEL_S_MAX)


def print_result(summary: MigrationSummary) -> None:
    """Print how a migration went."""
    output.print_facts(_facts(summary))


async def _watch(
    log: EventLog, migration: str, limits: ev.Limits, *, silent: bool
) -> MigrationSummary:
    wait_s = limits.deadline_ns / 1e9 + END_GRACE_S
    try:
        with display_for(migration, silent=silent) as display:
            return await follow(log, migration, display, wait_s=wait_s)
    except (KeyboardInterrupt, DeadlineError):
        raise
    except BaseException:
        # Ctrl-C comes as the cancellation of this task.
        sys.stderr.write(
            f"migration {migration} goes on; 'godwit migration cancel {migration}' ends it\n"
        )
        raise


def _row(summary: MigrationSummary) -> Sequence[str]:
    return (
        short_id(summary.id),
        day_and_clock(summary.requested_wall_ns),
        summary.machine,
        summary.source,
        summary.destination,
        reason(summary.outcome),
        str(len(summary.rounds)),
        size(summary.sent_bytes),
        "" if summary.stun_ns is None else duration(summary.stun_ns),
        reason(summary.reason),
    )


def _facts(summary: MigrationSummary) -> list[tuple[str, str]]:
    facts = [
        ("migration", summary.id),
        ("machine", summary.machine),
        ("from, to", f"{summary.source or '?'} → {summary.destination}"),
        ("outcome", reason(summary.outcome)),
    ]
    because = ": ".join(filter(None, (reason(summary.reason), summary.message)))
    if because:
        facts.append(("reason", because))
    if summary.requested_wall_ns:
        facts.append(("asked for", day_and_clock(summary.requested_wall_ns)))
    if summary.outcome is Outcome.IN_DOUBT:
        facts.append(("resolve", doubt.command(summary)))
    if summary.limits.bandwidth_bytes_per_second or summary.bandwidth_changed_by:
        facts.append(("bandwidth", _bandwidth(summary)))
    if summary.ended_wall_ns:
        facts.append(("ended", day_and_clock(summary.ended_wall_ns)))
        facts.append(("took", duration(summary.duration_ns)))
    if summary.rounds:
        speed = rate(throughput_bytes_per_second(summary))
        facts.append(("rounds", count(len(summary.rounds), "round")))
        facts.append(("sent", f"{size(summary.sent_bytes)} at {speed}"))
    if summary.content_bytes:
        facts.append(("held there already", size(summary.content_bytes)))
    if summary.compression_bytes:
        facts.append(("saved by compression", size(summary.compression_bytes)))
    if (stood := stun(summary)) != NO_STUN:
        facts.append(("stun", stood))
        facts += [(f"  {part}", took) for part, took in stun_parts(summary)]
    return facts


def _bandwidth(summary: MigrationSummary) -> str:
    cap = format_bandwidth(summary.limits.bandwidth_bytes_per_second)
    by = summary.bandwidth_changed_by
    return f"{cap}, as {by} asked while it ran" if by else cap
