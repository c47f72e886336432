"""``godwit archive``: migrations that are over leave the server for an archive."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated, cast

import msgspec
import typer

from godwit.archive.archiving import Archiving, Fate
from godwit.archive.restoring import Restored, Restoring
from godwit.archive.store import Store
from godwit.pictures.figures import count, day_and_clock, size
from godwit_protocol.errors import (
    CorruptError,
    GodwitError,
    InvalidInputError,
    NotFoundError,
)
from godwit_protocol.quantities import parse_duration_ns
from godwit_protocol.replay.retention import Manifest, Policy
from godwit_protocol.replay.signatures import Trust
from godwit_protocol.replay.verification import verify

from . import output
from .connection import DirectoryOption, JsonOption, open_log, run
from .replay_verify import TrustOption, trusting

app = typer.Typer(
    no_args_is_help=True, help="Keep migrations that are over in files rather than on the server."
)

PlaceArgument = Annotated[Path, typer.Argument(metavar="DIRECTORY", help="The archive.")]


@app.command("run")
def run_(
    place: PlaceArgument,
    older_than: Annotated[
        str, typer.Option(metavar="TIME", help="Only what ended so long ago: 30d, 12h.")
    ] = "30d",
    keep: Annotated[int, typer.Option(metavar="N", min=0, help="Leave the N that ended last.")] = 0,
    unsigned: Annotated[
        bool,
        typer.Option(
            "--unsigned",
            help="Also what hosts have not signed to its end. Only if none of them can come back.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be archived, and do nothing.")
    ] = False,
    trust: TrustOption = None,
    directory: DirectoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy migrations into the archive, read them back, verify them, and take them from the server.

    May be ended at any instant, and run again. Needs a server that was set up with
    GODWIT_RETENTION=archive.
    """
    older_than_ns = parse_duration_ns(older_than)
    policy = Policy(older_than_ns=older_than_ns, keep=keep, unsigned=unsigned)
    trusted = trusting(trust)

    async def work() -> list[Fate]:
        from godwit.runtime.purging import NatsPurger

        async with open_log(directory) as log:
            archiving = Archiving(log, NatsPurger(log), Store(place), policy, trusted)
            fates = cast(
                "AsyncGenerator[Fate, None]", archiving.run(time.time_ns(), rehearse=dry_run)
            )
            return [_told(fate, is_quiet=as_json, is_dry=dry_run) async for fate in fates]

    fates = run(work())
    if as_json:
        output.print_json([fate._asdict() for fate in fates])
    else:
        gone = sum(not fate.stays for fate in fates)
        done = "would be archived" if dry_run else "archived"
        output.print_line(f"{count(gone, 'migration')} {done}, {len(fates) - gone} left")


def _told(fate: Fate, *, is_quiet: bool, is_dry: bool) -> Fate:
    if not is_quiet:
        kept = "would be archived" if is_dry else f"archived ({size(fate.file_bytes)})"
        what = f"left: {fate.stays}" if fate.stays else kept
        output.print_line(f"{fate.migration}  {count(fate.events, 'event')}  {what}")
    return fate


@app.command("list")
def list_(place: PlaceArgument, as_json: JsonOption = False) -> None:
    """Show what is in an archive. ``godwit replay … --from FILE`` reads its files."""
    store = Store(place)
    manifests = list(store.all())
    if as_json:
        output.print_json([msgspec.to_builtins(each) for each in manifests])
        return
    for each in manifests:
        output.print_line(_line(each, store))
    output.print_line(count(len(manifests), "migration"))


def _line(described: Manifest, store: Store) -> str:
    ended = day_and_clock(described.ended_ns)
    events = count(described.events, "event")
    what = f"{described.machine}  {described.outcome}  {ended}  {events}"
    return f"{what}  {store.path(described.migration)}"


@app.command()
def restore(
    place: PlaceArgument,
    migration: Annotated[
        str, typer.Argument(metavar="[ID]", help="The migration; part of its id will do.")
    ] = "",
    all_: Annotated[bool, typer.Option("--all", help="Every migration of the archive.")] = False,
    trust: TrustOption = None,
    directory: DirectoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put migrations back into a log, whole: a log of its own, where no host listens. May be ended
    at any instant, and run again.

    Not needed to look at them: commands that read take --from DIRECTORY. A cluster's log is
    refused: hosts would carry out old orders again.
    """
    store, trusted = Store(place), trusting(trust)
    wanted = _wanted(store, migration, all_=all_)

    async def work() -> list[Restored]:
        async with open_log(directory) as log:
            return [each async for each in Restoring(log, store, trusted).run(wanted)]

    restored = run(work())
    if as_json:
        output.print_json([each._asdict() for each in restored])
        return
    for each in restored:
        told = f"{each.appended} restored" if each.appended else "it is there already"
        output.print_line(f"{each.migration}  {count(each.events, 'event')}  {told}")
    output.print_line(f"{count(len(restored), 'migration')} in the log, whole")


def _wanted(store: Store, part: str, *, all_: bool) -> list[str]:
    """Raises ``InvalidInputError``, ``NotFoundError``."""
    if bool(part) == all_:
        raise InvalidInputError(
            "it is not said which migration to restore", hint="give part of its id, or --all"
        )
    found = [each for each in store.ids() if each.startswith(part) or each.endswith(part)]
    if not found:
        raise NotFoundError(
            f"the archive holds no migration {part!r}", hint="see 'godwit archive list'"
        )
    if len(found) > 1 and not all_:
        raise InvalidInputError(
            f"{part!r} does not say which migration", hint=f"it could be: {', '.join(found[:5])}"
        )
    return found


@app.command()
def check(place: PlaceArgument, trust: TrustOption = None) -> None:
    """Read the whole archive again and verify each migration. Exits with 11 if any is wrong."""
    store, trusted = Store(place), trusting(trust)
    migrations, wrong = store.ids(), 0
    for each in migrations:
        if why := _fault(store, each, trusted):
            wrong += 1
            output.print_line(f"{each}  WRONG  {why}")
    output.print_line(f"{count(len(migrations), 'migration')}: {wrong} wrong")
    if wrong:
        raise CorruptError(f"{count(wrong, 'migration')} of the archive cannot be relied on")


def _fault(store: Store, migration: str, trust: Trust) -> str:
    try:
        found = verify(migration, store.read(migration), trust=trust)
    except GodwitError as error:
        return error.message
    return str(found.faults[0]) if found.faults else ""
