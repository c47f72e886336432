"""Questions that may stay unanswered, with NVML's word for why."""

from __future__ import annotations

from .library import (
    DRIVER_NOT_LOADED,
    GPU_IS_LOST,
    RESET_REQUIRED,
    UNINITIALIZED,
    Library,
    NvmlError,
    Plain,
)

TELLS_NOTHING = frozenset({UNINITIALIZED, DRIVER_NOT_LOADED, GPU_IS_LOST, RESET_REQUIRED})
"""Errors of the device, not of the question."""


class Asker:
    """Asks about one GPU. ``unanswered``: by field, why it is unknown."""

    def __init__(self, library: Library) -> None:
        self.unanswered: dict[str, str] = {}
        self._library = library

    def ask(self, field: str, function: str, *arguments: Plain) -> Plain | None:
        """The answer, or None. Raises ``NvmlError`` if the GPU tells nothing at all."""
        try:
            return self._library.ask(function, *arguments)
        except NvmlError as error:
            if error.status in TELLS_NOTHING:
                raise
            self.unanswered[field] = error.text
            return None
