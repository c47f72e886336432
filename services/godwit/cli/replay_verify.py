"""``godwit replay verify``: what a log proves, and by whose keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from godwit.pictures import reading
from godwit.pictures.figures import count
from godwit.pictures.migrations import find_id
from godwit.runtime.files import read_text
from godwit.runtime.log_file import LogFile
from godwit.runtime.signing import is_signed
from godwit_protocol import subjects
from godwit_protocol.errors import CorruptError, InvalidInputError
from godwit_protocol.replay.beside import Beside, BesideMigrations, verify_beside
from godwit_protocol.replay.chains import parse_noted
from godwit_protocol.replay.findings import UNCLOSED, Verification
from godwit_protocol.replay.signatures import UNTRUSTED, Trust, parse_trusted
from godwit_protocol.replay.stories import LATE_EVENTS_MAX, Stories, Story, migration_of
from godwit_protocol.replay.verification import OUTSIDE, verify

from . import output
from .connection import DirectoryOption, JsonOption, run
from .log_file import FromOption, open_source
from .replay_arguments import AllOption, IdArgument, messages_of

if TYPE_CHECKING:
    from godwit.runtime.event_log import LogReader

READ_AGAIN_MAX: Final = 1000
"""So many migrations are held together when a file is read again for what came late."""

TrustOption = Annotated[
    Path | None,
    typer.Option(
        "--trust",
        metavar="FILE",
        help="Whose keys count, as 'godwit keys list' prints them: what they have not signed is"
        " wrong.",
        show_default=False,
    ),
]


def trusting(file: Path | None) -> Trust:
    """By what signatures are checked; without a file they are, but by no known keys.

    Raises ``NotFoundError``, and ``InvalidInputError`` for a file that cannot be read.
    """
    if file is None:
        return Trust(is_signed=is_signed)
    return Trust(is_signed=is_signed, keys=parse_trusted(read_text(file)))


def verify_command(
    migration: IdArgument = "",
    all_: AllOption = False,
    file: FromOption = None,
    directory: DirectoryOption = None,
    digest: Annotated[
        str,
        typer.Option(metavar="N:HEX", help="What 'export ID' printed: its first N events then."),
    ] = "",
    trust: TrustOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove from the log alone what can be proven: that nothing was altered, dropped, doubled or
    put in, and that each step was legal and each decision the one that the recorded core makes.

    Says too what is not proven. Exits with 11 if anything is wrong.
    """
    if bool(migration) == all_ or (digest and all_):
        raise InvalidInputError(
            "it is not said which migration to verify",
            hint="give part of its id, or --all; a digest is that of one migration",
        )

    noted = parse_noted(digest) if digest else None
    trusted = trusting(trust)

    async def work() -> tuple[list[Verification], Beside]:
        async with open_source(directory, file) as log:
            if all_:
                return await verify_all(log, trusted)
            wanted = await find_id(log, migration)
            found = verify(wanted, await messages_of(log, wanted), noted, trusted)
            return [found], verify_beside(())

    found, beside = run(work())
    if as_json:
        verified = [_json(each) for each in found]
        output.print_json([*verified, _beside_json(beside)] if all_ else verified)
    else:
        _show(found, beside, each_whole=not all_)
    wrong = [each for each in found if each.faults]
    if wrong or beside.faults:
        told = f"{count(len(wrong), 'migration')} of {len(found)}"
        raise CorruptError(
            f"{told if wrong else beside.faults[0]} cannot have been logged so",
            hint="a log that was altered, or a defect of Godwit; keep an export of it",
        )


async def verify_all(
    log: LogReader, trust: Trust, *, late_events_max: int = LATE_EVENTS_MAX
) -> tuple[list[Verification], Beside]:
    """Verify every migration, holding the open ones and those that ended lately; and the rest.

    What was written into a migration later than ``late_events_max`` others has it read again.
    Raises ``UnreachableError``, ``CorruptError``.
    """
    together = Stories(late_events_max)
    found: dict[str, Verification] = {}
    beside = BesideMigrations()

    def judge(stories: Iterable[Story]) -> None:
        for story in stories:
            found[story.migration] = verify(*story, trust=trust)

    for stream in (subjects.EVENTS, subjects.REGISTER):
        async for stored in reading.messages(log, subjects.STREAM_SUBJECTS[stream]):
            beside.take(stored)
            judge(together.take(stored))
    judge(together.rest())
    async for story in _read_again(log, together.late):
        judge([story])
    return list(found.values()), beside.found()


async def _read_again(log: LogReader, migrations: Sequence[str]) -> AsyncIterator[Story]:
    """These migrations, whole; what has left the log meanwhile is not among them. A server finds
    each by its subjects; a file has no index, and is read from its beginning for many at a time.
    """
    if not isinstance(log, LogFile):
        for each in migrations:
            if messages := await messages_of(log, each):
                yield Story(each, messages)
        return
    for first in range(0, len(migrations), READ_AGAIN_MAX):
        part = migrations[first : first + READ_AGAIN_MAX]
        whole = {each: Story(each, []) for each in part}
        async for stored in reading.messages(log, subjects.STREAM_SUBJECTS[subjects.EVENTS]):
            if (story := whole.get(migration_of(stored.subject))) is not None:
                story.messages.append(stored)
        for story in whole.values():
            if story.messages:
                yield story


def _json(found: Verification) -> dict[str, Any]:
    printable: dict[str, Any] = msgspec.to_builtins(found)
    return printable | {"outside": OUTSIDE}


def _beside_json(beside: Beside) -> dict[str, Any]:
    """What is no migration's, in the shape of one without a name."""
    proven = () if beside.faults else (_proven_beside(beside),)
    return _json(
        Verification(
            migration="",
            events=beside.events,
            proven=proven,
            unproven=(),
            faults=beside.faults,
        )
    ) | {"values": beside.values}


def _proven_beside(beside: Beside) -> str:
    told = f"{count(beside.events, 'event')} of machines and hosts stand in their chains"
    return f"{told}; of registers {count(beside.values, 'value')}, each a legal step"


def _show(found: list[Verification], beside: Beside, *, each_whole: bool) -> None:
    for each in found:
        if each_whole or not _is_usual(each):
            output.print_line(f"migration {each.migration}: {_verdict(each)}")
            for told, texts in (("proven", each.proven), ("not proven", each.unproven)):
                for text in texts:
                    output.print_line(f"  {told:<10}  {text}")
            for fault in each.faults:
                output.print_line(f"  WRONG       {fault}")
    for fault in beside.faults:
        output.print_line(f"  WRONG       {fault}")
    for text in OUTSIDE:
        output.print_line(f"  outside     {text}")
    if not each_whole:
        if not beside.faults:
            output.print_line(f"  proven      {_proven_beside(beside)}")
        wrong = sum(bool(each.faults) for each in found)
        events = count(sum(each.events for each in found), "event")
        if open_ended := sum(bool(each.open_ends) for each in found):
            told = f"of {count(open_ended, 'migration')} the ends of lanes: not signed"
            output.print_line(f"  not proven  {told}")
        for text in (UNTRUSTED, UNCLOSED):
            if any(text in each.unproven for each in found):
                output.print_line(f"  not proven  {text}")
        output.print_line(f"{count(len(found), 'migration')}, {events}: {wrong} wrong")


def _is_usual(found: Verification) -> bool:
    """Nothing is wrong, and nothing open but whether lanes end where they do."""
    return not found.faults and set(found.unproven) <= {UNTRUSTED, UNCLOSED, *found.open_ends}


def _verdict(found: Verification) -> str:
    if found.faults:
        return f"{count(len(found.faults), 'fault')}"
    return "proven" if found.is_whole else "nothing is wrong, and not all is proven"
