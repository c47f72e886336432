"""Standard output and error as a command finds them: perhaps closed, perhaps on a full disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

from godwit_protocol.errors import InvalidInputError

if TYPE_CHECKING:
    from typing import TextIO


class _Checked:
    """A stream whose troubles are told as its own. A pipe that nobody reads any more is none."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.is_broken = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As ``TextIO.write``. Raises ``InvalidInputError``."""
        with self._told():
            return self._stream.write(text)

    def flush(self) -> None:
        """As ``TextIO.flush``. Raises ``InvalidInputError``."""
        with self._told():
            self._stream.flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self.is_broken = True
            raise
        except OSError as error:
            self.is_broken = True
            raise InvalidInputError(
                f"standard output cannot be written: {error.strerror}",
                hint="what was asked for may have been done",
            ) from error


@contextmanager
def checked_output() -> Iterator[None]:
    """Until the end, what standard output does not take is an ``InvalidInputError``, also what was
    left in it when a command is done.
    """
    stream = sys.stdout
    if stream is None:
        raise InvalidInputError("standard output is closed", hint="nothing was done")
    checked = _Checked(stream)
    sys.stdout = cast("TextIO", checked)
    try:
        yield
    except SystemExit:
        with suppress(BrokenPipeError):
            checked.flush()
        raise
    finally:
        # What it did not take would be tried again when the interpreter ends, and told once more.
        sys.stdout = nowhere() if checked.is_broken else stream


def open_error_output() -> None:
    """Where standard error is closed, have it take everything: nobody wants to read it."""
    if sys.stderr is None:
        sys.stderr = nowhere()


def nowhere() -> TextIO:
    """A stream that takes everything."""
    return os.fdopen(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), "w")
