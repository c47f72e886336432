"""What can happen on any computer is said in one plain message, and is no defect."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Godwit

from godwit_protocol.errors import InvalidInputError

LOG = Path(__file__).parents[1] / "golden" / "logs" / "v1-completed.ndjson"
COMMAND = Path(sys.executable).parent / "godwit"


@pytest.mark.parametrize(
    "words",
    [
        ("events", "--from"),
        ("archive", "list"),
        ("archive", "check"),
        ("keys", "new"),
        ("replay", "verify", "--all", "--from"),
    ],
)
async def test_a_name_that_is_too_long_is_told(
    godwit: Godwit, tmp_path: Path, words: tuple[str, ...]
) -> None:
    told = await godwit(*words, str(tmp_path / ("x" * 300)), url="")
    assert (told.status, told.out) == (InvalidInputError.exit_code, "")
    assert "File name too long" in told.err
    assert "defect" not in told.err


def shell(redirected: str, *words: str, unbuffered: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f'"$0" "$@" {redirected}', str(COMMAND), *words],
        env={**os.environ, "GODWIT_NATS_URL": "", "PYTHONUNBUFFERED": unbuffered},
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "words",
    [
        ("events", "--from", str(LOG)),
        ("replay", "verify", "--all", "--from", str(LOG), "--json"),
        ("migration", "list", "--from", str(LOG)),
        ("--version",),
    ],
)
@pytest.mark.parametrize(
    ("redirected", "said"), [(">&-", "is closed"), (">/dev/full", "No space left on device")]
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_nobody_takes_is_told(
    words: tuple[str, ...], redirected: str, said: str, unbuffered: str
) -> None:
    ended = shell(redirected, *words, unbuffered=unbuffered)
    assert ended.returncode == InvalidInputError.exit_code, ended.stderr
    assert ended.stderr.startswith("godwit: standard output ")
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 2, ended.stderr


def test_a_closed_standard_error_stops_nothing() -> None:
    assert shell(">/dev/null 2>&-", "events", "--from", str(LOG)).returncode == 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_is_no_trouble(unbuffered: str) -> None:
    words = ("events", "--from", str(LOG))
    for reader in ("head -n 1", "true"):
        assert shell(f"| {reader} >/dev/null", *words, unbuffered=unbuffered).stderr == ""
