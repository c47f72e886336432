"""NVML's answers as a file: what a real driver said to each question, in order.

A recording is test data. It says whether it was recorded on a real GPU or written by hand
(synthetic), and, if recorded, which driver and boards answered.
"""

from __future__ import annotations

import base64
from enum import StrEnum
from typing import Any, Final

import msgspec

from .library import Handle, Library, NvmlError, Plain, spelled

_BYTES: Final = "base64"
_HANDLE: Final = "handle"


class Origin(StrEnum):
    """Where a recording's answers come from."""

    RECORDED = "recorded"
    SYNTHETIC = "synthetic"
    """Written by hand: no GPU has ever said so."""


class Failure(msgspec.Struct, frozen=True):
    """An error as an answer."""

    status: int
    text: str


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One question and what was answered. ``asked``: the function with its arguments."""

    asked: str
    answer: Any = None
    failure: Failure | None = None


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """Answers in the order in which they were given."""

    origin: Origin
    driver: str
    boards: tuple[str, ...]
    library: str
    answers: tuple[Answer, ...]


class Recorder:
    """A library that writes down what another one answers."""

    def __init__(self, library: Library) -> None:
        self.answers: list[Answer] = []
        self._library = library

    def ask(self, function: str, *arguments: Plain) -> Plain:
        """As ``Library.ask``."""
        asked = spelled(function, arguments)
        try:
            answer = self._library.ask(function, *arguments)
        except NvmlError as error:
            self.answers.append(Answer(asked, failure=Failure(error.status, error.text)))
            raise
        self.answers.append(Answer(asked, written(answer)))
        return answer


def encode(recording: Recording) -> bytes:
    """Return the recording as JSON, one answer a line."""
    return msgspec.json.format(msgspec.json.encode(recording), indent=1) + b"\n"


def decode(data: bytes) -> Recording:
    """Return what ``encode`` was given. Raises ``msgspec.ValidationError``."""
    return msgspec.json.decode(data, type=Recording)


def written(value: Plain) -> Any:
    """An answer as JSON can hold it. Handles and bytes become objects of one key."""
    match value:
        case Handle():
            return {_HANDLE: value.name}
        case bytes():
            return {_BYTES: base64.b64encode(value).decode("ascii")}
        case list() | tuple():
            return [written(item) for item in value]
        case dict():
            return {name: written(item) for name, item in value.items()}
        case _:
            return value


def read(value: Any) -> Plain:
    """The answer that ``written`` was given."""
    match value:
        case {"handle": str(name)}:
            return Handle(name)
        case {"base64": str(text)}:
            return base64.b64decode(text)
        case list():
            return [read(item) for item in value]
        case dict():
            return {name: read(item) for name, item in value.items()}
        case _:
            return value
