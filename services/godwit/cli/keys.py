"""``godwit keys``: the keys that sign what services write of a migration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from godwit.pictures import reading
from godwit.runtime.files import exists
from godwit.runtime.signing import load_signer, make_key
from godwit_protocol import codec, subjects
from godwit_protocol.errors import ConflictError
from godwit_protocol.events.machine import HostAnnounced
from godwit_protocol.events.signed import LaneSigned

from . import output
from .connection import DirectoryOption, run
from .log_file import FromOption, open_source

if TYPE_CHECKING:
    from godwit.runtime.event_log import LogReader

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A private key.")]
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Whose it is: a host, a coordinator, a tracker.")
]

app = typer.Typer(no_args_is_help=True, help="Keys that sign what a migration left in the log.")


@app.command()
def new(file: FileArgument) -> None:
    """Make a private key, for GODWIT_SIGNING_KEY. Services that have none make their own."""
    if exists(file):
        raise ConflictError(f"{file} is there already", hint="a key is never overwritten")
    make_key(file)


@app.command()
def show(file: FileArgument, name: NameArgument) -> None:
    """Print a line for a file of trusted keys (``replay verify --trust``)."""
    output.print_line(f"{name} {load_signer(file).public_key.hex()}")


@app.command("list")
def list_(file: FromOption = None, directory: DirectoryOption = None) -> None:
    """Print the keys that stand in the log, in lines for a file of trusted keys.

    The log vouches for nothing here: print them when it is known to be sound, keep them elsewhere.
    """

    async def work() -> dict[tuple[str, bytes], None]:
        async with open_source(directory, file) as log:
            return await find_keys(log)

    for name, key in run(work()):
        output.print_line(f"{name} {key.hex()}")


async def find_keys(log: LogReader) -> dict[tuple[str, bytes], None]:
    """Every writer's name with every key that it has announced or signed with, in the log's order.

    Raises ``UnreachableError``, ``CorruptError``.
    """
    found: dict[tuple[str, bytes], None] = {}
    kinds = (
        subjects.inventory("*"),
        subjects.migration("*", "*", LaneSigned.TYPE),
    )
    for wanted in kinds:
        async for stored in reading.messages(log, [wanted]):
            recorded = codec.decode(stored.data, stored.sequence)
            match recorded.event:
                case HostAnnounced(signing_key=key) | LaneSigned(public_key=key) if key:
                    found[recorded.envelope.host, key] = None
                case _:
                    pass
    return found
