"""What is said over the Unix sockets of VMMs and launcher: messages, framing, and paths.

A frame is its length (four bytes, little-endian) and a MessagePack message; file descriptors ride
on a frame's first byte. Pure but for the two functions that open sockets; knows no state.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from godwit_protocol.errors import (
    DeadlineError,
    GodwitError,
    LocalProtocolError,
    RemoteProtocolError,
    UnreachableError,
)
from godwit_protocol.machine import VGPUS_MAX, MachineSpec

from ..port import VmmState

FRAME_BYTES_MAX: Final = 16 * 2**20
LENGTH_BYTES: Final = 4
FDS_MAX: Final = 1 + VGPUS_MAX
"""As many as a machine has regions; the kernel passes at most 253 descriptors at once."""


class Message(msgspec.Struct, frozen=True, tag=True):
    """Base of all messages; tagged by its class's name."""


class Spawn(Message, frozen=True):
    """To the launcher: start a VMM. Answered by ``Done`` when its process exists."""

    spec: MachineSpec
    nats_url: str


class GetStatus(Message, frozen=True):
    """Any state; answered by ``Status``."""


class GetRegions(Message, frozen=True):
    """Any state; answered by ``Regions`` with one memfd a region."""


class GetStopFlag(Message, frozen=True):
    """Any state; answered by ``Done`` with the memfd of the flag that stops the guest."""


class Start(Message, frozen=True):
    """GATED; answered by ``Running``."""

    epoch: int


class Pause(Message, frozen=True):
    """RUNNING or PAUSED; answered by ``Paused``."""


class Resume(Message, frozen=True):
    """PAUSED; answered by ``Running``."""

    epoch: int


class Slow(Message, frozen=True):
    """RUNNING or PAUSED: take so many percent of the guest's time from it; answered by ``Done``.

    It ends by itself after ``for_ns``: whoever asked may have died.
    """

    percent: int
    for_ns: int


class Load(Message, frozen=True):
    """GATED; answered by ``Done``."""

    checkpoint: bytes


class OpenGate(Message, frozen=True):
    """LOADED; answered by ``Running``."""

    epoch: int


class Populate(Message, frozen=True):
    """GATED: allocate pages of one region; answered by ``Done``."""

    region: str
    runs: bytes
    """Little-endian int64 pairs of (start page, page count)."""


class Halt(Message, frozen=True):
    """RUNNING: let the guest stand still, or go on; answered by ``Done``."""

    halted: bool


class Stop(Message, frozen=True):
    """Any state; answered by ``Done``, then the process ends."""


class Done(Message, frozen=True):
    """It happened."""


class Status(Message, frozen=True):
    """As ``port.VmmStatus``."""

    spec: MachineSpec
    state: VmmState
    epoch: int
    pid: int
    steps: int
    failure: str
    halted: bool = False


class Regions(Message, frozen=True):
    """The regions' addresses in the VMM, in the order of the specification."""

    addresses: tuple[int, ...]


class Running(Message, frozen=True):
    """CLOCK_MONOTONIC ns of the first step's beginning."""

    began_ns: int


class Paused(Message, frozen=True):
    """As ``port.Checkpoint``."""

    checkpoint: bytes
    stopped_ns: int


class Failed(Message, frozen=True):
    """A typed error; nothing of what was asked has happened."""

    code: str
    message: str
    hint: str


VmmCommand = (
    GetStatus
    | GetRegions
    | GetStopFlag
    | Start
    | Pause
    | Resume
    | Slow
    | Halt
    | Load
    | OpenGate
    | Populate
    | Stop
)
Answer = Done | Status | Regions | Running | Paused | Failed

_encoder = msgspec.msgpack.Encoder()
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)
_kinds: Final[list[type[GodwitError]]] = [GodwitError, *GodwitError.__subclasses__()]
_errors: Final = {kind.code: kind for kind in _kinds}


def frame(message: Message) -> bytes:
    """Return ``message`` as it goes over the socket. Raises ``LocalProtocolError``: too long."""
    body = _encoder.encode(message)
    if len(body) > FRAME_BYTES_MAX:
        raise LocalProtocolError(
            f"{type(message).__name__} of {len(body)} bytes; at most {FRAME_BYTES_MAX} are sent"
        )
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


def take_frame(buffer: bytearray) -> bytes | None:
    """Cut one frame's body off the front of ``buffer``; None if it is not all there yet.

    Raises ``RemoteProtocolError`` if it is too long.
    """
    length = int.from_bytes(buffer[:LENGTH_BYTES], "little")
    if length > FRAME_BYTES_MAX:
        raise RemoteProtocolError(f"a frame of {length} bytes; at most {FRAME_BYTES_MAX} are taken")
    end = LENGTH_BYTES + length
    if len(buffer) < end:
        return None
    body = bytes(buffer[LENGTH_BYTES:end])
    del buffer[:end]
    return body


def decode_answer(body: bytes) -> Answer:
    """Return the answer in ``body``. Raises what a ``Failed`` holds, or ``RemoteProtocolError``."""
    try:
        answer = _answers.decode(body)
    except msgspec.DecodeError as error:
        raise RemoteProtocolError(f"an answer that cannot be read: {error}") from error
    if isinstance(answer, Failed):
        raise _errors.get(answer.code, GodwitError)(answer.message, hint=answer.hint)
    return answer


def failed(error: GodwitError) -> Failed:
    """Return ``error`` as an answer."""
    return Failed(error.code, error.message, error.hint)


def listen(path: Path) -> socket.socket:
    """Return a non-blocking socket that listens at ``path``, for this user only."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    with _short_path(path) as short:
        listener.bind(short)
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    listener.listen()
    return listener


def connect(path: Path) -> socket.socket:
    """Return a non-blocking socket connected to ``path``: at once, also when the listener is busy.

    Raises ``UnreachableError`` if nobody listens there, ``DeadlineError`` if somebody does who has
    not taken the last hundred that came.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        with _short_path(path) as short:
            connection.connect(short)
    except BlockingIOError as error:
        connection.close()
        raise DeadlineError(f"too many wait for an answer at {path}") from error
    except OSError as error:
        connection.close()
        raise UnreachableError(f"nobody answers at {path} ({error})") from error
    return connection


@contextmanager
def _short_path(path: Path) -> Iterator[str]:
    """A name for ``path`` that fits a socket address (107 bytes), however deep its folder is."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
