"""Read the catalogue: the models that come with Godwit, and a site's own.

A file describes one model; a site names a file, or a folder of them, and what is called as a model
that is there already replaces it. Everything is checked before anything is used, and an error says
the file, the line and the reason. Knows files; what the figures mean is the core's.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec

from godwit_protocol import catalogue
from godwit_protocol.catalogue import Catalogue, CatalogueError, GpuModel
from godwit_protocol.errors import InvalidInputError

SHIPPED: Final = Path(__file__).parent
FILE_BYTES_MAX: Final = 256 * 1024
_IN_TABLE: Final = re.compile(
    r"^(?P<table>\w+)(?:\.profiles\[(?P<index>\d+)\])?(?:\.(?P<key>\w+))?"
)


class CatalogueFileError(InvalidInputError):
    """A file of the catalogue cannot be used. ``line`` counts from 1; 0: the file as a whole."""

    def __init__(self, file: Path, line: int, reason: str) -> None:
        where = f"{file}:{line}" if line else str(file)
        super().__init__(f"{where}: {reason}", hint="docs/gpus.md says what such a file holds")
        self.file = file
        self.line = line
        self.reason = reason


@lru_cache(maxsize=4)
def load(site: Path | None = None) -> Catalogue:
    """Return all models that Godwit knows, with those of ``site``: a ``.toml`` file, or a folder.

    Raises ``CatalogueFileError`` for the first thing that is wrong.
    """
    files = [*_files(SHIPPED), *(_files(site) if site else ())]
    return catalogue.collect([read(file) for file in files])


def _files(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place]
    found = sorted(place.glob("*.toml"))
    if not found:
        raise CatalogueFileError(place, 0, "there is no .toml file in this folder")
    return found


def read(file: Path) -> GpuModel:
    """Return the model that a file describes, checked. Raises ``CatalogueFileError``."""
    text = _text(file)
    try:
        model = msgspec.convert(tomllib.loads(text), GpuModel)
        catalogue.check(model)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        raise CatalogueFileError(file, int(line[1]) if line else 0, str(error)) from error
    except msgspec.ValidationError as error:
        reason, where = _reason_and_place(error)
        raise CatalogueFileError(file, _line(text, where), _said(where, reason)) from error
    except CatalogueError as error:
        line_number = _line(text, error.where)
        raise CatalogueFileError(file, line_number, _said(error.where, error.reason)) from error
    return model


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > FILE_BYTES_MAX:
            raise CatalogueFileError(file, 0, f"it is larger than {FILE_BYTES_MAX} bytes")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogueFileError(file, 0, f"it cannot be read: {error}") from error


def _reason_and_place(error: msgspec.ValidationError) -> tuple[str, str]:
    """Why a value is refused, and where it stands, as in ``mig.profiles[2].starts``."""
    reason, _, path = str(error).partition(" - at `$")
    unknown = re.search(r"unknown field `(\w+)`", reason)
    return reason, (path.rstrip("`") + (f".{unknown[1]}" if unknown else "")).lstrip(".")


def _said(where: str, reason: str) -> str:
    return f"{where}: {reason}" if where else reason


def _line(text: str, where: str) -> int:
    """The line of ``where``, such as ``mig.profiles[2].starts``: that of the profile, if each has a
    line of its own; else that of its table.
    """
    parts = _IN_TABLE.match(where)
    lines = text.splitlines()
    if parts is None:
        return 0
    table, index = parts["table"], parts["index"]
    header = next((at for at, line in enumerate(lines) if line.strip() == f"[{table}]"), None)
    if header is None:
        return next(_keys(lines, table), -1) + 1
    if index is None:
        within = (at for at in _keys(lines, parts["key"] or "") if at > header)
        return next(within, header) + 1
    profiles = [at for at in _section(lines, header) if lines[at].lstrip().startswith("{")]
    return (profiles[int(index)] if int(index) < len(profiles) else header) + 1


def _keys(lines: list[str], key: str) -> Iterator[int]:
    return (at for at, line in enumerate(lines) if line.partition("=")[0].strip() == key)


def _section(lines: list[str], header: int) -> Iterator[int]:
    """The lines of a table, up to the next."""
    for at in range(header + 1, len(lines)):
        if lines[at].startswith("["):
            return
        yield at
