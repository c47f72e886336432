"""The shape of a guest and of the machine it runs in. Knows nothing of hosts, NATS or migration.

A guest keeps all of its lasting state in the machine's regions and gives a small checkpoint between
two steps. A class with this shape can be started as ``module:Class`` or ``FILE.py:Class``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable


class VGpu(Protocol):
    """One virtual GPU of a machine."""

    @property
    def profile(self) -> str:
        """The vGPU type, such as ``H100XM-4C``."""

    @property
    def framebuffer(self) -> memoryview:
        """The whole framebuffer: writable bytes, length in bytes set by the profile."""


class Machine(Protocol):
    """What a guest sees of the machine it runs in."""

    @property
    def name(self) -> str:
        """The machine's name; the same on every host."""

    @property
    def ram(self) -> memoryview:
        """The whole RAM region: writable bytes."""

    @property
    def vgpus(self) -> Sequence[VGpu]:
        """The machine's vGPUs, in the order in which they were asked for."""

    @property
    def stop_wanted(self) -> bool:
        """Whether a migration waits for the end of this step, to stun the machine. Costs no system
        call: what takes long may look at it, leave the rest of its own work to the next step, and
        return early, still with one reply for each request.
        """


@runtime_checkable
class Guest(Protocol):
    """The program inside a machine.

    It is constructed without arguments, before its memory is there: the place for slow imports.
    Settings come from the environment (``godwit machine start --env K=V``), the same on each host.
    A guest may have an attribute ``idle: bool``: while it is true, ``step`` is called only when
    there is a request. Without it, ``step`` is called again and again.
    """

    def boot(self, machine: Machine) -> None:
        """Start for the first time; every region is zero."""

    def step(self, requests: Sequence[bytes]) -> Sequence[bytes]:
        """Do a little work (aim below 10 ms: a stun waits for the end of a step).

        ``requests`` may be empty; after a long step the next one is given fewer of them. Returns
        exactly one reply for each request, in order.
        """

    def save(self) -> bytes:
        """Return the checkpoint: the state that is in no region; at most 1 MiB, best a few bytes.

        Called between two steps. The guest may be asked to step again afterwards.
        """

    def load(self, machine: Machine, checkpoint: bytes) -> None:
        """Go on from ``checkpoint``; the regions already hold their bytes. Must be fast."""
