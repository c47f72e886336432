"""``godwit events``: the log as a story, one event a line, or as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from godwit.cli.log_file import FromOption, open_source
from godwit.pictures import reading
from godwit.pictures.figures import Days, clock, short_id
from godwit.pictures.migrations import find_id
from godwit.pictures.narrative import Narrator
from godwit.pictures.reading import Unreadable
from godwit_protocol import subjects
from godwit_protocol.events import Envelope, Recorded
from godwit_protocol.register import RECORD_BYTES_MAX

from . import completion, output
from .connection import DirectoryOption, JsonOption, run

if TYPE_CHECKING:
    from godwit.runtime.event_log import LogReader

WHO_CHARACTERS = 30


def events(
    migration: Annotated[
        str,
        typer.Option(
            metavar="ID",
            help="Only this migration (part of its id will do).",
            autocompletion=completion.migrations,
        ),
    ] = "",
    machine: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Only this machine, with its migrations.",
            autocompletion=completion.machines,
        ),
    ] = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new events, until Ctrl-C.")
    ] = False,
    file: FromOption = None,
    directory: DirectoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what happened: position, time, who, what, and why.

    Events are in the log's order, which is the only one that holds between hosts.
    """
    if machine:
        subjects.checked_name(machine, "machine")

    async def work() -> None:
        async with open_source(directory, file) as log:
            await tell(log, migration, machine, follow=follow, as_json=as_json)

    run(work())


async def tell(
    log: LogReader, migration: str, machine: str, *, follow: bool, as_json: bool
) -> None:
    """Print the events. Raises ``NotFoundError`` for a migration that is not there."""
    wanted = await find_id(log, migration) if migration else ""
    narrator, days = Narrator(), Days()
    source = reading.entries(log, _filters(wanted, machine), follow=follow)
    async with aclosing(source):
        async for entry in source:
            if machine and not _is_about(entry, machine):
                continue
            if as_json:
                output.print_json(entry_json(entry))
            else:
                told = line(entry, narrator, named=not wanted)
                if isinstance(entry, Recorded):
                    told = days.dated(entry.envelope.wall_ns, told)
                output.print_line(told)


def line(entry: Recorded | Unreadable, narrator: Narrator, *, named: bool) -> str:
    """One entry as a line. ``named`` says too which machine and migration it is about."""
    if isinstance(entry, Unreadable):
        return f"{entry.stored.sequence:>6}  (unreadable: {entry.why}; {entry.stored.subject})"
    envelope = entry.envelope
    who = f"{envelope.lane}@{envelope.host}"
    about = _about(envelope) if named else ""
    told = narrator.tell(entry)
    return f"{entry.sequence:>6}  {clock(envelope.wall_ns)}  {who:<{WHO_CHARACTERS}}  {about}{told}"


def entry_json(entry: Recorded | Unreadable) -> dict[str, Any]:
    """One entry as a JSON object: the envelope's fields, with the event's own under ``body``."""
    if isinstance(entry, Unreadable):
        data = entry.stored.data[:RECORD_BYTES_MAX].hex()
        return {
            "sequence": entry.stored.sequence,
            "subject": entry.stored.subject,
            "unreadable": entry.why,
            "data": data,
        }
    envelope = msgspec.structs.asdict(entry.envelope)
    body = msgspec.msgpack.decode(envelope.pop("body"))
    printable: dict[str, Any] = msgspec.to_builtins(
        {"sequence": entry.sequence, **envelope, "body": body},
        builtin_types=(bytes,),
        str_keys=True,
    )
    hexed: dict[str, Any] = _with_hex(printable)
    return hexed


def _with_hex(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: _with_hex(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_hex(item) for item in value]
    return value


def _filters(migration: str, machine: str) -> Sequence[str]:
    if migration:
        return subjects.whole_migration(migration)
    if machine:
        return (*subjects.whole_machine(machine), *subjects.whole_migration("*"))
    return reading.ALL_EVENTS


def _is_about(entry: Recorded | Unreadable, machine: str) -> bool:
    if isinstance(entry, Unreadable):
        return f".{machine}." in entry.stored.subject
    return entry.envelope.machine == machine


def _about(envelope: Envelope) -> str:
    parts = (envelope.machine, short_id(envelope.migration))
    named = " ".join(filter(None, parts))
    return f"[{named}]  " if named else ""
