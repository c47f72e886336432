"""A guest under execution: its calls, what they must return, and how much it gets at once.

Knows the guest and its memory; nothing of states, sockets or the log. Whatever a guest raises comes
out as ``GuestError``, with the traceback in the log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, ParamSpec, TypeVar

from godwit.guests.loader import load_guest
from godwit.guests.protocol import Guest
from godwit_protocol.errors import GuestError
from godwit_protocol.machine import RAM_REGION, MachineSpec

from .memory import MachineMemory
from .stop_flag import StopFlag

CHECKPOINT_BYTES_MAX: Final = 2**20
BATCH_MAX: Final = 64
STEP_NS_MAX: Final = 10_000_000
"""A stun waits for the end of a step, so a longer one gets fewer requests the next time."""

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NativeVGpu:
    """As ``guests.protocol.VGpu``."""

    profile: str
    framebuffer: memoryview


@dataclass(frozen=True, slots=True)
class NativeMachine:
    """As ``guests.protocol.Machine``."""

    name: str
    ram: memoryview
    vgpus: tuple[NativeVGpu, ...]
    _stop_flag: StopFlag

    @property
    def stop_wanted(self) -> bool:
        """As ``guests.protocol.Machine``."""
        return self._stop_flag.is_wanted

    @classmethod
    def of(cls, spec: MachineSpec, memory: MachineMemory, stop_flag: StopFlag) -> NativeMachine:
        """What the guest sees of ``memory``."""
        framebuffers = memory.regions[1:]
        vgpus = [
            NativeVGpu(vgpu.profile, region.view)
            for vgpu, region in zip(spec.vgpus, framebuffers, strict=True)
        ]
        return cls(spec.name, memory[RAM_REGION].view, tuple(vgpus), stop_flag)


class Execution:
    """One guest in its machine. Every method raises ``GuestError``."""

    def __init__(self, spec: MachineSpec, memory: MachineMemory, stop_flag: StopFlag) -> None:
        """Import and construct the guest."""
        self._machine = NativeMachine.of(spec, memory, stop_flag)
        self._guest = _guarded("construction", load_guest, spec.guest, spec.guest_source)
        self.steps = 0
        self.batch = 1
        """How many requests the next step may get."""

    @property
    def idle(self) -> bool:
        """Whether the guest says that it has nothing to do until the next request."""
        return _guarded("idle", _is_idle, self._guest)

    def boot(self) -> None:
        """Start for the first time."""
        _guarded("boot", self._guest.boot, self._machine)

    def load(self, checkpoint: bytes) -> None:
        """Go on from ``checkpoint``."""
        _guarded("load", self._guest.load, self._machine, checkpoint)

    def save(self) -> bytes:
        """Return the guest's checkpoint."""
        checkpoint = _guarded("save", self._guest.save)
        if not isinstance(checkpoint, bytes):
            raise GuestError(
                f"the guest's save returned {type(checkpoint).__name__}", hint="return bytes"
            )
        if len(checkpoint) > CHECKPOINT_BYTES_MAX:
            raise GuestError(
                f"the guest's checkpoint has {len(checkpoint)} bytes",
                hint=f"keep lasting state in the regions: at most {CHECKPOINT_BYTES_MAX} bytes",
            )
        return checkpoint

    def step(self, requests: Sequence[bytes]) -> Sequence[bytes]:
        """Run one step; returns one reply for each request."""
        began_ns = time.monotonic_ns()
        replies = _guarded("step", self._guest.step, requests)
        took_ns = time.monotonic_ns() - began_ns
        replies = _guarded("step", _checked_replies, requests, replies)
        self.steps += 1
        self._adapt(len(requests), took_ns)
        return replies

    def _adapt(self, count: int, took_ns: int) -> None:
        if took_ns > STEP_NS_MAX:
            self.batch = max(self.batch // 2, 1)
        elif count == self.batch and took_ns < STEP_NS_MAX // 2:
            self.batch = min(self.batch * 2, BATCH_MAX)


def _is_idle(guest: Guest) -> bool:
    return bool(getattr(guest, "idle", False))


def _checked_replies(requests: Sequence[bytes], replies: Sequence[bytes]) -> Sequence[bytes]:
    if len(replies) != len(requests):
        raise GuestError(
            f"the guest gave {len(replies)} replies to {len(requests)} requests",
            hint="step returns exactly one reply for each request, in order",
        )
    for reply in replies:
        if not isinstance(reply, bytes):
            raise GuestError(f"the guest's reply is {type(reply).__name__}", hint="return bytes")
    return list(replies)


def _guarded(what: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call into the guest. Whatever it raises, Godwit's own errors, ``SystemExit`` and
    ``KeyboardInterrupt`` too, is only a failure of the guest, not of the VMM.
    """
    try:
        return call(*args, **kwargs)
    except GuestError:
        raise
    except BaseException as error:
        _log.exception("the guest failed in %s", what)
        raise GuestError(f"the guest failed in {what}: {_told(error)}") from error


def _told(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # the guest's own exception cannot say what it is
        return type(error).__name__
