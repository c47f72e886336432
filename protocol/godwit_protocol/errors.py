"""Typed errors. Each kind has a stable code, for programs, and an exit code, for shells.

An error says what was wrong and where; ``hint`` says what to do about it. The kinds follow h11: an
error is either ours, the peer's, or the world's, and a caller can tell which by its type.
"""

from __future__ import annotations

from typing import ClassVar


class GodwitError(Exception):
    """Root of all errors that a user may see.

    ``code`` is stable across releases; ``exit_code`` is the status of a command that ends with it.
    """

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidInputError(GodwitError):
    """What the user gave cannot be right, whatever the cluster's state."""

    code = "invalid_input"
    exit_code = 2


class NotFoundError(GodwitError):
    """The named machine, host, migration or file does not exist."""

    code = "not_found"
    exit_code = 3


class ConflictError(GodwitError):
    """Somebody else changed it first, or it is in use."""

    code = "conflict"
    exit_code = 4


class RefusedError(GodwitError):
    """A service refused, with a reason; nothing has changed."""

    code = "refused"
    exit_code = 5


class AbortedError(GodwitError):
    """The migration was aborted; the machine runs on its source."""

    code = "aborted"
    exit_code = 6


class InDoubtError(GodwitError):
    """Nobody can prove who may run the machine; an operator must decide."""

    code = "in_doubt"
    exit_code = 7


class UnreachableError(GodwitError):
    """The event log or a host does not answer. What was asked may or may not have happened."""

    code = "unreachable"
    exit_code = 8


class DeadlineError(GodwitError):
    """An answer did not come in time."""

    code = "deadline"
    exit_code = 9


class UnsupportedError(GodwitError):
    """This kernel, machine or version lacks something that is needed."""

    code = "unsupported"
    exit_code = 10


class CorruptError(GodwitError):
    """Stored or received bytes are not what they must be."""

    code = "corrupt"
    exit_code = 11


class LocalProtocolError(GodwitError):
    """We tried something that the protocol forbids: a defect in Godwit."""

    code = "local_protocol"
    exit_code = 12


class RemoteProtocolError(GodwitError):
    """The peer sent something that the protocol forbids."""

    code = "remote_protocol"
    exit_code = 13


class GuestError(GodwitError):
    """The guest's own code failed or does not have the documented shape."""

    code = "guest"
    exit_code = 14


class DataLossError(GodwitError):
    """A check found something lost, doubled or different."""

    code = "data_loss"
    exit_code = 15
