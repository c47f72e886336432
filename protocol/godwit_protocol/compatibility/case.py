"""What a move is judged by: the machine, and what its two hosts have announced. Pure data."""

from __future__ import annotations

import msgspec

from ..catalogue import Catalogue
from ..events.machine import GpuInventory, HostAnnounced
from ..events.reservation import Placement
from ..facts import GpuFacts, HostFacts
from ..ledger import HostPicture
from ..link_probe import LinkFound, LinkUnknown
from ..machine import MachineSpec


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One host. ``boot``: the boot that it announced in, alike for hosts on one machine."""

    host: str
    announced: HostAnnounced | None = None
    boot: str = ""

    @property
    def facts(self) -> HostFacts | None:
        """What it told of itself; None if it told nothing, or nothing of the kind."""
        return None if self.announced is None else self.announced.facts

    def gpu(self, index: int) -> GpuInventory | None:
        """One of its GPUs."""
        gpus = () if self.announced is None else self.announced.gpus
        return next((gpu for gpu in gpus if gpu.index == index), None)


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A move that somebody thinks of.

    ``seats``: where the machine's vGPUs sit on the source, in their order; None if nobody knows.
    ``there``: the destination's GPUs and what is held on them. ``link``: what the source found
    where the destination listens.
    """

    spec: MachineSpec
    source: Side
    destination: Side
    seats: tuple[Placement, ...] | None
    there: HostPicture
    catalogue: Catalogue
    link: LinkFound | LinkUnknown


class GpuSide(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU of one side, for a check that compares two of them."""

    side: Side
    gpu: GpuInventory

    @property
    def name(self) -> str:
        """For people."""
        simulated = " (SIMULATED)" if self.gpu.simulated else ""
        return f"GPU {self.gpu.index} of {self.side.host}{simulated}"

    @property
    def facts(self) -> GpuFacts:
        """What is known; all of it unknown if the host told nothing of the kind."""
        return self.gpu.facts or _NOTHING_KNOWN

    def why_unknown(self, field: str) -> str:
        """The end of a sentence that says that ``field`` is not known."""
        if self.gpu.facts is None:
            return f"unknown: {self.side.host} runs a release that does not tell it"
        why = self.facts.unanswered.get(field, "")
        return f"unknown: {why}" if why else "unknown"


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One vGPU: the GPU that it sits on, and one that it could sit on."""

    profile: str
    source: GpuSide
    target: GpuSide
    catalogue: Catalogue


_NOTHING_KNOWN = GpuFacts()
