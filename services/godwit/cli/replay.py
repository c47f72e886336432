"""``godwit replay``: what a log proves and tells, live or from an exported file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from godwit.pictures import reading
from godwit.pictures.figures import count
from godwit.pictures.migrations import find_id
from godwit.pictures.report import page
from godwit.runtime.log_file import LogFile
from godwit.runtime.parquet_file import SUFFIX, ParquetWriter
from godwit.runtime.signing import is_signed
from godwit_protocol import codec, subjects
from godwit_protocol.errors import InvalidInputError, RefusedError
from godwit_protocol.estimation.policies import Policy
from godwit_protocol.quantities import parse_duration_ns
from godwit_protocol.replay import lines
from godwit_protocol.replay.chains import note
from godwit_protocol.replay.instant import Instant, instant
from godwit_protocol.replay.signatures import Trust
from godwit_protocol.replay.timeline import Timeline, timeline
from godwit_protocol.replay.verification import verify
from godwit_protocol.replay.what_if import Move, recorded_move
from godwit_protocol.stored import Stored

from . import output, replay_verify
from . import replay_otherwise as otherwise
from .connection import DirectoryOption, JsonOption, open_log, run
from .log_file import FromOption, open_source
from .replay_arguments import AllOption, IdArgument, messages_of
from .replay_pictures import instant_json, show_instant, show_timeline, timeline_json

if TYPE_CHECKING:
    from godwit.runtime.event_log import EventLog, LogReader

EXPORTED = (subjects.EVENTS, subjects.REGISTER, subjects.LEDGER)
"""The streams of a whole log's export. Guest I/O is the guests', the rest can be lost."""

app = typer.Typer(
    no_args_is_help=True, help="Replay what was logged: tell it, prove it, ask what if."
)


@app.command()
def export(
    migration: IdArgument = "",
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Where to.", show_default=False)
    ] = None,
    all_: AllOption = False,
    directory: DirectoryOption = None,
) -> None:
    """Write a migration, or with --all the whole log, into a file that replays without a cluster.

    The file has a line of JSON for each message, with its bytes as they are stored; or, if its name
    ends in .parquet, a row.
    """
    if all_ and file is None:
        migration, file = "", Path(migration) if migration else None
    if file is None or bool(migration) == all_:
        raise InvalidInputError(
            "it is not said what to export, or where to",
            hint="'godwit replay export ID FILE', or 'godwit replay export --all FILE'",
        )
    target = file

    async def work() -> int:
        async with open_log(directory) as log:
            wanted = await find_id(log, migration) if migration else ""
            return await write_export(log, wanted, target)

    written = run(work())
    output.print_line(f"{count(written, 'message')} written to {target}")
    if migration:
        noted = note(list(LogFile(target).messages()))
        output.print_line(f"digest {noted} (note it elsewhere; 'verify --digest' wants it)")


async def write_export(log: LogReader, migration: str, file: Path) -> int:
    """Write a migration's events, or the whole log if none is named; return how many messages.

    Raises ``UnreachableError``, ``InvalidInputError`` if the file cannot be written.
    """
    filters = (
        [subjects.whole_migration(migration)]
        if migration
        else [subjects.STREAM_SUBJECTS[stream] for stream in EXPORTED]
    )
    written = 0
    try:
        with _exporting(file, migration) as add:
            for wanted in filters:
                async for stored in reading.messages(log, wanted):
                    add(stored)
                    written += 1
    except OSError as error:
        raise InvalidInputError(f"{file} cannot be written: {error.strerror}") from error
    return written


@contextmanager
def _exporting(file: Path, migration: str) -> Iterator[Callable[[Stored], object]]:
    """Give what writes a message into the file, in the form that its name ends in."""
    if file.suffix == SUFFIX:
        writer = ParquetWriter(file, migration)
        try:
            yield writer.add
        finally:
            writer.close()
        return
    with file.open("wb") as opened:
        opened.write(lines.encode_head(migration))
        yield lambda message: opened.write(lines.encode_line(message))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An exported log.")],
    directory: DirectoryOption = None,
) -> None:
    """Put an exported log into an event log that is empty: a server of its own, to look at it.

    Not needed to replay it: the commands of replay take --from FILE.
    """

    async def work() -> int:
        async with open_log(directory) as log:
            return await import_log(log, LogFile(file))

    output.print_line(f"{count(run(work()), 'message')} imported")


async def import_log(log: EventLog, file: LogFile) -> int:
    """Append a file's messages in their order; return how many.

    Raises ``RefusedError`` if the event log is not empty, ``UnreachableError``, and as
    ``open_source``.
    """
    for stream in EXPORTED:
        async for stored in reading.messages(log, subjects.STREAM_SUBJECTS[stream]):
            raise RefusedError(
                f"the event log is not empty: {stored.subject} stands in it",
                hint="services would take what is imported for what is; use a server of its own",
            )
    imported = 0
    for message in file.messages():
        message_id, headers = message.for_another_log(f"imported-{imported}")
        await log.append(message.subject, message.data, message_id=message_id, headers=headers)
        imported += 1
    return imported


@app.command("timeline")
def timeline_command(
    migration: IdArgument,
    file: FromOption = None,
    directory: DirectoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell a migration in causal order: who did what on both hosts, when and because of what, the
    rounds with the numbers that each decision was made from, and the stun taken apart.
    """

    async def work() -> Timeline:
        async with open_source(directory, file) as log:
            wanted = await find_id(log, migration)
            return timeline(wanted, await messages_of(log, wanted))

    told = run(work())
    if as_json:
        output.print_json(timeline_json(told))
    else:
        show_timeline(told)


@app.command()
def at(
    migration: IdArgument,
    seq: Annotated[
        int | None,
        typer.Option(metavar="N", help="Just after the event at this position of the log."),
    ] = None,
    time: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="This long after it was asked for, such as 1.5s, by the log's clock.",
        ),
    ] = "",
    file: FromOption = None,
    directory: DirectoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every role as it was at an instant: its state, and which inputs were legal next."""
    if (seq is None) == (not time):
        raise InvalidInputError("it is not said when", hint="give either --seq or --time")
    since_ns = parse_duration_ns(time) if time else None

    async def work() -> Instant:
        async with open_source(directory, file) as log:
            wanted = await find_id(log, migration)
            messages = await messages_of(log, wanted)
            if since_ns is None:
                known = sum(message.sequence <= (seq or 0) for message in messages)
            else:
                until_ns = messages[0].time_ns + since_ns
                known = sum(message.time_ns <= until_ns for message in messages)
            return instant(wanted, messages, known)

    found = run(work())
    if as_json:
        output.print_json(instant_json(found))
    else:
        show_instant(found)


@app.command("what-if")
def what_if(
    migration: IdArgument,
    link: Annotated[str, typer.Option(metavar="RATE", help="Another link: 25Gbit.")] = "",
    stun_limit: Annotated[
        str, typer.Option(metavar="TIME", help="The longest that it may stand still.")
    ] = "",
    stun_limit_max: Annotated[
        str, typer.Option(metavar="TIME", help="What it may stand still rather than be given up.")
    ] = "",
    slow_max: Annotated[
        str, typer.Option(metavar="PERCENT", help="How much of its time may be taken from it.")
    ] = "",
    bandwidth: Annotated[
        str, typer.Option(metavar="RATE", help="What its rounds may take of the link; 'none': all.")
    ] = "",
    rounds_max: Annotated[str, typer.Option(metavar="N", help="The most rounds.")] = "",
    deadline: Annotated[
        str, typer.Option(metavar="TIME", help="How long the rounds may take in all.")
    ] = "",
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="POLICY",
            help=f"Who decides at a round's end, within the same limits: {', '.join(Policy)}, or"
            " all. May be given several times.",
            show_default=False,
        ),
    ] = None,
    file: FromOption = None,
    directory: DirectoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Play a recorded migration again, under other limits or over another link, by the same core,
    or by another's published rule.

    Without an option it shows that the recorded settings give the recorded decisions.
    """
    named = {
        "link": link,
        "stun_limit": stun_limit,
        "stun_limit_max": stun_limit_max,
        "slow_max": slow_max,
        "bandwidth": bandwidth,
        "rounds_max": rounds_max,
        "deadline": deadline,
        otherwise.POLICY: ",".join(policy or ()),
    }
    given = {name: text for name, text in named.items() if text}
    _play(migration, given, file, directory, as_json=as_json)


@app.command()
def diff(
    migration: IdArgument,
    with_: Annotated[
        Path,
        typer.Option(
            "--with",
            metavar="CONFIG",
            help="A TOML file of other settings: link, policy, stun_limit, stun_limit_max, …",
        ),
    ],
    file: FromOption = None,
    directory: DirectoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """As what-if, with the settings of a file: what would they have changed?"""
    _play(migration, otherwise.read_config(with_), file, directory, as_json=as_json)


def _play(
    migration: str,
    given: Mapping[str, str],
    file: Path | None,
    directory: Path | None,
    *,
    as_json: bool,
) -> None:
    async def work() -> Move:
        async with open_source(directory, file) as log:
            wanted = await find_id(log, migration)
            messages = await messages_of(log, wanted)
            story = [codec.decode(each.data, each.sequence) for each in messages]
            move = recorded_move(wanted, story)
            if move is None:
                raise RefusedError(
                    f"migration {wanted} has sent no round: there is nothing to play"
                )
            return move

    move = run(work())
    settings = otherwise.settings_of(move, given)
    if as_json:
        output.print_json(otherwise.as_json(move, settings))
    else:
        otherwise.show(move, settings)


@app.command()
def report(
    migration: IdArgument,
    html: Annotated[Path, typer.Option("--html", metavar="FILE", help="Where to write the page.")],
    file: FromOption = None,
    directory: DirectoryOption = None,
) -> None:
    """Write a migration as one page: the story, rounds, stun, what-if, verification. Needs nothing
    else, and prints well.
    """

    async def work() -> str:
        async with open_source(directory, file) as log:
            wanted = await find_id(log, migration)
            messages = await messages_of(log, wanted)
            story = [codec.decode(each.data, each.sequence) for each in messages]
            told = timeline(wanted, messages)
            checked = verify(wanted, messages, trust=Trust(is_signed=is_signed))
            gap = await reading.client_gap(log, told.summary.machine, messages)
            return page(told, checked, recorded_move(wanted, story), gap)

    try:
        html.write_text(run(work()), encoding="utf-8")
    except OSError as error:
        raise InvalidInputError(f"{html} cannot be written: {error.strerror}") from error
    output.print_line(f"written to {html}")


app.command("verify")(replay_verify.verify_command)
