"""Each subcommand is found, told in the help, and imported by nobody who asked for another."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer

from godwit.cli.main import app
from godwit.cli.subcommands import PLACES

ASK_FOR_KEYS = """
import sys
from godwit.cli.main import main
sys.argv = ["godwit", "keys", "--help"]
try:
    main()
finally:
    print([name for name in sys.modules if name.startswith("godwit.cli.")], file=sys.stderr)
"""


@pytest.mark.parametrize("name", PLACES)
def test_a_subcommand_is_found_by_its_name_and_has_a_help(name: str) -> None:
    group = typer.main.get_group(app)
    command = group.commands.get(name)
    assert command is not None
    assert command.name == name
    assert command.help
    assert group.commands.get(name) is command


def test_there_is_no_other() -> None:
    group = typer.main.get_group(app)
    assert group.commands.get("machin") is None
    assert list(group.commands) == list(PLACES)


def test_whoever_asks_for_one_does_not_wait_for_the_others() -> None:
    asked = subprocess.run(
        [sys.executable, "-c", ASK_FOR_KEYS], capture_output=True, text=True, check=True
    )
    assert "Keys that sign" in asked.stdout
    assert "godwit.cli.keys" in asked.stderr
    for other in ("replay", "archive", "simulate", "machine"):
        assert f"'godwit.cli.{other}'" not in asked.stderr
