"""Looking at paths that somebody gave: one that cannot be looked at is told, and not taken for one
that is not there.
"""

from __future__ import annotations

from pathlib import Path

from godwit_protocol.errors import InvalidInputError, NotFoundError


def exists(path: Path) -> bool:
    """Whether there is anything. Raises ``InvalidInputError`` if that cannot be found out."""
    try:
        return path.exists()
    except OSError as error:
        raise _unseen(path, error) from error


def is_directory(path: Path) -> bool:
    """Whether it is a directory. Raises as ``exists``."""
    try:
        return path.is_dir()
    except OSError as error:
        raise _unseen(path, error) from error


def read_text(path: Path) -> str:
    """A file of text. Raises ``NotFoundError``, and ``InvalidInputError`` if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}") from error
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} cannot be read: it is no text in UTF-8") from error


def _unseen(path: Path, error: OSError) -> InvalidInputError:
    return InvalidInputError(f"{path} cannot be looked at: {error.strerror}")
