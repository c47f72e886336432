"""What cannot be right is refused in one line that names it, by the exit code that README gives."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from conftest import Here

from godwit.runtime.log_file import LogFile
from godwit_protocol.errors import CorruptError, InvalidInputError, NotFoundError

LOG = Path(__file__).parents[1] / "golden" / "logs" / "v1-completed.ndjson"
ID = LogFile(LOG).head().of
WRONG, MISSING, CORRUPT = (
    error.exit_code for error in (InvalidInputError, NotFoundError, CorruptError)
)
CUT_BYTES = 3000

OF_IT = (ID, "--from", str(LOG))
GIVEN = [
    (("timeline", "ffff", "--from", str(LOG)), MISSING, "there is no migration 'ffff'"),
    (("timeline", "f", "--from", str(LOG)), WRONG, "'f' does not say which migration"),
    (("timeline", ID, "--from", "{missing}"), MISSING, "there is no file {missing}"),
    (("timeline", ID, "--from", "{cut}"), CORRUPT, "{cut}: line 3 cannot be read"),
    (("timeline", ID, "--from", "{packed}"), CORRUPT, "{packed} cannot be unpacked"),
    (("timeline", ID, "--from", "{notes}"), CORRUPT, "{notes}: it is no exported log"),
    (("verify", "--all", "--from", "{folder}"), MISSING, "no migration is archived in {folder}"),
    (("at", *OF_IT), WRONG, "it is not said when"),
    (("at", *OF_IT, "--time", "5"), WRONG, "'5' is not a duration"),
    (("at", *OF_IT, "--time", "12:30"), WRONG, "'12:30' is not a duration"),
    (("what-if", *OF_IT, "--link", "fast"), WRONG, "'fast' is not a rate"),
    (("what-if", *OF_IT, "--link", "0Gbit"), WRONG, "a link of '0Gbit' carries nothing"),
    (("what-if", *OF_IT, "--stun-limit", "-5ms"), WRONG, "'-5ms' is not a duration"),
    (("what-if", *OF_IT, "--slow-max", "100"), WRONG, "'100' is no number from 0 to 99"),
    (("what-if", *OF_IT, "--policy", "none"), WRONG, "no policy is called so: 'none'"),
    (("diff", *OF_IT, "--with", "{missing}"), MISSING, "there is no file {missing}"),
    (("diff", *OF_IT, "--with", "{folder}"), WRONG, "{folder} cannot be read: Is a directory"),
    (("diff", *OF_IT, "--with", "{notes}"), WRONG, "{notes} is no TOML"),
    (("diff", *OF_IT, "--with", "{bytes}"), WRONG, "{bytes} cannot be read: it is no text"),
    (("diff", *OF_IT, "--with", "{other}"), WRONG, "nothing is called limits"),
    (("report", *OF_IT, "--html", "{folder}"), WRONG, "{folder} cannot be written"),
    (("report", *OF_IT, "--html", "{missing}/page"), WRONG, "{missing}/page cannot be written"),
    (("verify", *OF_IT, "--digest", "17"), WRONG, "'17' is no digest"),
    (("verify", *OF_IT, "--trust", "{missing}"), MISSING, "there is no file {missing}"),
    (("verify", *OF_IT, "--trust", "{folder}"), WRONG, "{folder} cannot be read: Is a directory"),
    (("verify", *OF_IT, "--trust", "{notes}"), WRONG, "line 1 is no trusted key"),
    (("verify", *OF_IT, "--all"), WRONG, "it is not said which migration to verify"),
    (("export", ID), WRONG, "it is not said what to export, or where to"),
]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """By the name that stands for each in ``GIVEN``."""
    found = {
        name: tmp_path / name
        for name in ("missing", "cut", "packed", "notes", "bytes", "other", "folder")
    }
    found["cut"].write_bytes(LOG.read_bytes()[:CUT_BYTES])
    found["packed"].write_bytes(gzip.compress(LOG.read_bytes())[: CUT_BYTES // 4])
    found["notes"].write_text("hello\n")
    found["bytes"].write_bytes(b"\xff\xfe")
    found["other"].write_text('[limits]\nstun_limit = "1s"\n')
    found["folder"].mkdir()
    return found


@pytest.mark.parametrize(
    ("words", "status", "message"),
    GIVEN,
    ids=[" ".join(words[:1] + words[-2:]) for words, *_ in GIVEN],
)
def test_it_is_refused_in_words(
    here: Here, files: dict[str, Path], words: tuple[str, ...], status: int, message: str
) -> None:
    refused = here("replay", *(word.format(**files) for word in words))
    assert (refused.status, refused.out) == (status, "")
    first, *_ = refused.err.splitlines()
    assert first.startswith(f"godwit: {message.format(**files)}")
    for never in ("Errno", "Traceback", "defect"):
        assert never not in refused.err


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("missing", MISSING, "there is no file {path}"),
        ("folder", WRONG, "others may read the signing key {path}"),
        ("notes", WRONG, "{path} is no signing key"),
    ],
)
def test_a_key_that_is_none_is_refused(
    here: Here, files: dict[str, Path], name: str, status: int, message: str
) -> None:
    if name == "notes":
        files[name].chmod(0o600)
    refused = here("keys", "show", str(files[name]), "host-1")
    assert (refused.status, refused.out) == (status, "")
    assert refused.err.startswith(f"godwit: {message.format(path=files[name])}")
    assert "Errno" not in refused.err
