"""A move at a size that nobody here has: GPUs, a link and a workload, played on paper. Pure.

The rounds, and when they end, are those of ``rounds.play``, which plays what was measured. What is
not measured here is said where it stands: how workloads write, and what GPU memory, which has no
dirty bits, takes to be looked through.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from ..convergence import STUN_FIXED_NS
from ..errors import InvalidInputError
from .history import DirtyWindow, LinkSample, RegionWrites
from .rounds import Curve, MoveLimits, Played, play

GPUS_MAX: Final = 64
SECOND_NS: Final = 1_000_000_000
INSTANTS_NS: Final = (
    SECOND_NS // 1000,
    SECOND_NS // 20,
    SECOND_NS,
    30 * SECOND_NS,
    3600 * SECOND_NS,
)
VSPHERE_SHARE: Final = 0.69
"""Of a 100 Gbit/s link, at the peak, as VMware has published."""


class Workload(StrEnum):
    """What the guest does meanwhile."""

    IDLE = "idle"
    """Nothing: the model is loaded and waits."""
    INFERENCE = "inference"
    """Weights are only read. Llama2-7B, as published: 4.1 GB of 30 GB are really written."""
    KV_CACHE = "kv-cache"
    """All that is not weights is a pool of KV blocks, and all of it is in use: Llama-3.1-8B, 16 GB
    of weights on 80 GB."""
    TRAINING = "training"
    """Parameters and the optimizer's state are rewritten at each step."""


class Writes(msgspec.Struct, frozen=True):
    """How a workload writes: ``share`` of the memory, ``bytes_per_second`` a GPU until all of that
    is dirty.
    """

    share: float
    bytes_per_second: float


KV_BYTES_PER_SECOND: Final = 0.65e9
"""128 KiB a token, 5,000 tokens a second."""
TRAINED_BYTES_PER_SECOND: Final = 80e9
"""80 GB in a step of one second. That a step takes a second is assumed; whether a quarter or four,
what is dirty when a round ends is all there is."""
WRITES: Final = {
    Workload.IDLE: Writes(0.0, 0.0),
    Workload.INFERENCE: Writes(4.1 / 30, KV_BYTES_PER_SECOND),
    Workload.KV_CACHE: Writes(0.8, KV_BYTES_PER_SECOND),
    Workload.TRAINING: Writes(1.0, TRAINED_BYTES_PER_SECOND),
}


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What the play takes from measurements and published figures: docs/estimates.md names the row
    of docs/performance.md that each is from.

    ``link_share``: bytes of pages that a link carries, of its line rate. Ethernet, IP and TCP leave
    0.949 at 1,500 bytes a packet, frames 0.995 of that; on loopback the data plane is no slower
    than a bare loop of system calls. ``round_overhead_ns``: the scan of 4 GiB of host memory and
    the barrier. ``intent_ns``: an event that the log has acknowledged. ``switchover_ns``: the stun
    of a machine that is nearly idle. ``digest_bytes_per_second``: the memory bandwidth of one H100,
    as published. All GPUs look through their own memory at once, before each round and in the stun.
    """

    link_share: float = 0.94
    round_overhead_ns: int = 3_000_000
    intent_ns: int = 1_000_000
    switchover_ns: int = STUN_FIXED_NS
    digest_bytes_per_second: float = 3.35e12


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be moved, and over what. ``gpu_bytes``: the memory of one GPU.

    ``link_bytes_per_second`` is the line rate.
    """

    gpus: int
    gpu_bytes: int
    link_bytes_per_second: int
    workload: Workload

    @property
    def resident_bytes(self) -> int:
        """All GPU memory of the machine; its RAM is left out."""
        return self.gpus * self.gpu_bytes

    def checked(self) -> Scenario:
        """Return self. Raises ``InvalidInputError``."""
        if not 1 <= self.gpus <= GPUS_MAX:
            raise InvalidInputError(
                f"a machine has 1 to {GPUS_MAX} GPUs, not {self.gpus}", hint="write it like h100x8"
            )
        if self.link_bytes_per_second < 1:
            raise InvalidInputError("a link of 0bit carries nothing", hint="write it like 100Gbit")
        return self


class StopAndCopy(msgspec.Struct, frozen=True):
    """The machine stunned, copied whole, and resumed: nothing is live."""

    share: float
    bytes_per_second: float
    stun_ns: int


def play_scenario(
    scenario: Scenario, limits: MoveLimits, calibration: Calibration | None = None
) -> Played:
    """Play the move. Raises ``InvalidInputError``."""
    known = calibration or Calibration()
    return play(Curve(_window(scenario.checked())), _link(scenario, known), limits)


def stop_and_copy(scenario: Scenario, share: float) -> StopAndCopy:
    """The same machine at a ``share`` of the line rate, without anything before the stun."""
    rate = scenario.checked().link_bytes_per_second * share
    return StopAndCopy(share, rate, int(scenario.resident_bytes / rate * SECOND_NS))


def _window(scenario: Scenario) -> DirtyWindow:
    writes = WRITES[scenario.workload]
    most = int(scenario.resident_bytes * writes.share)
    a_ns = writes.bytes_per_second * scenario.gpus / SECOND_NS
    filled_ns = int(most / a_ns) if most else 0
    elapsed_ns = tuple(sorted({*INSTANTS_NS, max(filled_ns, 1)}))
    written = tuple(min(int(at_ns * a_ns), most) for at_ns in elapsed_ns)
    return DirtyWindow(
        machine="",
        host="",
        epoch=0,
        taken_wall_ns=0,
        elapsed_ns=elapsed_ns,
        regions=(RegionWrites("framebuffers", scenario.resident_bytes, written),),
    )


def _link(scenario: Scenario, known: Calibration) -> LinkSample:
    digest_ns = int(scenario.gpu_bytes / known.digest_bytes_per_second * SECOND_NS)
    return LinkSample(
        migration="",
        machine="",
        source="",
        destination="",
        bytes_per_second=scenario.link_bytes_per_second * known.link_share,
        round_overhead_ns=known.round_overhead_ns + digest_ns,
        intent_ns=known.intent_ns,
        switchover_ns=known.switchover_ns + digest_ns,
        around_ns=0,
    )
