"""The command ``godwit``: its subcommands, and what a failure looks like from outside.

A failure is one clear message on standard error and an exit code that says its kind, never a
traceback. Subcommands are imported when asked for, heavy libraries by those that need them.
"""

from __future__ import annotations

import sys
import traceback
from typing import Annotated, Final

import typer

from godwit_protocol.errors import GodwitError

from .connection import LEVEL_VARIABLE, is_debugging
from .streams import checked_output, open_error_output
from .subcommands import Subcommands

DEFECT_STATUS: Final = GodwitError.exit_code

app = typer.Typer(
    name="godwit",
    cls=Subcommands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Move running AI machines between hosts, every step an event.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"godwit {version('godwit')}\n")
        raise typer.Exit


@app.callback()
def _godwit(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Move running AI machines between hosts, every step an event.

    Begin with 'godwit demo', or with 'godwit up' in one terminal and the rest in another.
    """


def main() -> None:
    """Run the command line and exit with its status."""
    open_error_output()
    try:
        with checked_output():
            app()
    except GodwitError as error:
        _tell(f"godwit: {error.message}", error.hint)
        sys.exit(error.exit_code)
    except Exception as error:
        if is_debugging():
            traceback.print_exc()
        _tell(
            f"godwit: a defect: {type(error).__name__}: {error}",
            f"set {LEVEL_VARIABLE}=debug to see where",
        )
        sys.exit(DEFECT_STATUS)


def _tell(message: str, hint: str) -> None:
    sys.stderr.write(f"{message}\n")
    if hint:
        sys.stderr.write(f"  {hint}\n")
