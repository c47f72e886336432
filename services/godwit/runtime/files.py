"""Looking at paths that somebody gave: one that cannot be looked at is told, and not taken for one
that is not there.
"""

from __future__ import annotations

from pathlib import Path

from godwit_protocol.errors import InvalidInputError


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


def _unseen(path: Path, error: OSError) -> InvalidInputError:
    return InvalidInputError(f"{path} cannot be looked at: {error.strerror}")
