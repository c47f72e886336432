"""All verdicts on a move at once, and the destination's GPUs that it may use. Pure.

A machine without vGPUs is judged by the checks of hosts alone. If one of its hosts runs a release
that does not tell the facts for them, what it does tell must do: such machines moved before there
were facts, and the destination still refuses what it cannot hold before anything moves. With a
vGPU, what is not known refuses.

Each of the destination's GPUs that offers a vGPU's profile is compared with the one that the vGPU
sits on. The verdicts that are shown are those of the GPU that the tracker would take among the GPUs
that pass; if none passes, those of the GPU with the fewest that refuse.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from .. import ledger
from ..events.machine import GpuInventory
from ..events.reservation import Placement
from ..facts import Setting
from ..ledger import Refusal
from . import gpu_checks, host_checks
from .case import Case, GpuSide, Pair, Side
from .verdict import Check, Status, Verdict, ok, refused, unknown

_ORDER: Final = {check: place for place, check in enumerate(Check)}


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """Every verdict, in the order of ``Check``. ``gpus``: those of the destination that pass; None
    if the machine has no vGPU.
    """

    verdicts: tuple[Verdict, ...]
    gpus: tuple[int, ...] | None = None

    @property
    def refusals(self) -> tuple[Verdict, ...]:
        """All that is in the way."""
        return tuple(verdict for verdict in self.verdicts if verdict.refuses)

    @property
    def objections(self) -> tuple[Verdict, ...]:
        """What is in the way already before the tracker is asked for a place, which is its own to
        refuse: nothing if all but that is well.
        """
        found = self.refusals
        return () if all(item.check is Check.PROFILE_AVAILABLE for item in found) else found


def judge(case: Case) -> Judgement:
    """Judge a move."""
    verdicts = tuple(check(case) for check in host_checks.CHECKS.values())
    if not case.spec.vgpus:
        return Judgement(verdicts=_that_can_be_told(case, verdicts))
    sources = [_source(case, index) for index in range(len(case.spec.vgpus))]
    gpus = _passing(case, sources)
    available, targets = _place(case, gpus)
    compared = [
        _about(index, verdict)
        for index, source in enumerate(sources)
        for verdict in _compare(case, index, source, targets[index])
    ]
    every = (available, *compared, *_group(case, targets), *verdicts)
    return Judgement(verdicts=tuple(sorted(every, key=_place_in_order)), gpus=gpus)


def _that_can_be_told(case: Case, verdicts: tuple[Verdict, ...]) -> tuple[Verdict, ...]:
    if case.source.facts is not None and case.destination.facts is not None:
        return verdicts
    lasting = (Check.HYPERVISOR,)
    return tuple(
        item for item in verdicts if item.check in lasting or item.status is not Status.UNKNOWN
    )


def _source(case: Case, index: int) -> GpuSide | str:
    """The GPU that a vGPU sits on, or why it is not known."""
    side = case.source
    if case.seats is None or len(case.seats) != len(case.spec.vgpus):
        return f"where vgpu{index} sits on {side.host} is unknown"
    seat = case.seats[index]
    gpu = side.gpu(seat.gpu)
    if gpu is not None:
        return GpuSide(side=side, gpu=gpu)
    lost = side.facts.unreadable_gpus if side.facts is not None else ()
    return f"GPU {seat.gpu} of {side.host} tells nothing: {'; '.join(lost) or 'not announced'}"


def _offering(case: Case, profile: str) -> list[GpuInventory]:
    offered = case.catalogue.profiles.get(profile)
    gpus = case.destination.announced.gpus if case.destination.announced is not None else ()
    return [gpu for gpu in gpus if offered is not None and gpu.model in offered.models]


def _passing(case: Case, sources: list[GpuSide | str]) -> tuple[int, ...]:
    """GPUs of the destination that every vGPU which they offer could move to."""
    refused_by: dict[int, int] = {}
    for index, vgpu in enumerate(case.spec.vgpus):
        for gpu in _offering(case, vgpu.profile):
            found = _compare(case, index, sources[index], gpu)
            refusals = sum(verdict.refuses for verdict in found)
            refused_by[gpu.index] = refused_by.get(gpu.index, 0) + refusals
    return tuple(sorted(index for index, refusals in refused_by.items() if not refusals))


def _place(case: Case, gpus: tuple[int, ...]) -> tuple[Verdict, list[GpuInventory | None]]:
    """Whether there is a place for every vGPU, and the GPU to show each beside."""
    decided = _decide(case, gpus or None)
    if isinstance(decided, Refusal):
        nearest = [_nearest(case, index, gpus) for index in range(len(case.spec.vgpus))]
        hint = "'godwit gpus' shows what is held there"
        return refused(Check.PROFILE_AVAILABLE, decided.message, hint), nearest
    seats = ", ".join(f"{item.profile} on GPU {item.gpu}, slot {item.start}" for item in decided)
    said = f"host {case.destination.host} has a place: {seats}"
    return ok(Check.PROFILE_AVAILABLE, said), [case.destination.gpu(item.gpu) for item in decided]


def _decide(case: Case, gpus: tuple[int, ...] | None) -> tuple[Placement, ...] | Refusal:
    spec, there = case.spec, ledger.narrowed(case.there, gpus)
    wanted = ledger.wanted(
        tuple(vgpu.profile for vgpu in spec.vgpus),
        tuple(vgpu.framebuffer_bytes for vgpu in spec.vgpus),
        case.catalogue,
    )
    if isinstance(wanted, Refusal):
        return wanted
    return ledger.decide(
        there,
        case.destination.host,
        wanted,
        case.catalogue,
        policy=spec.placement_policy,
        group=spec.device_group,
    )


def _nearest(case: Case, index: int, gpus: tuple[int, ...]) -> GpuInventory | None:
    """Of the GPUs that offer a vGPU's profile, the first that passes, else the least refused."""
    offering = _offering(case, case.spec.vgpus[index].profile)
    source = _source(case, index)

    def refusals(gpu: GpuInventory) -> tuple[bool, int, int]:
        found = _compare(case, index, source, gpu)
        return gpu.index not in gpus, sum(verdict.refuses for verdict in found), gpu.index

    return min(offering, key=refusals, default=None)


def _compare(
    case: Case, index: int, source: GpuSide | str, gpu: GpuInventory | None
) -> Iterable[Verdict]:
    """Every check of one vGPU between its GPU and another."""
    profile, side = case.spec.vgpus[index].profile, case.destination
    if isinstance(source, str):
        return [unknown(check, source) for check in gpu_checks.CHECKS]
    if gpu is None:
        why = f"no GPU of {side.host} offers {profile}, so there is none to compare"
        return [unknown(check, why) for check in gpu_checks.CHECKS]
    pair = Pair(
        profile=profile,
        source=source,
        target=GpuSide(side=side, gpu=gpu),
        catalogue=case.catalogue,
    )
    return [check(pair) for check in gpu_checks.CHECKS.values()]


def _group(case: Case, targets: list[GpuInventory | None]) -> Iterable[Verdict]:
    """Several vGPUs that are near each other stay so: on one GPU, or on NVLink peers."""
    if len(case.spec.vgpus) < 2:
        return
    check = Check.NVLINK_GROUP
    sources = [_source(case, index) for index in range(len(targets))]
    here = [source.gpu for source in sources if isinstance(source, GpuSide)]
    there = [gpu for gpu in targets if gpu is not None]
    if len(here) < len(targets) or len(there) < len(targets):
        yield unknown(check, "which GPUs the vGPUs sit on, here or there, is unknown")
        return
    near = _near(here), _near(there)
    said = f"{_named(case.source, here)}, {_named(case.destination, there)}"
    if near[0] is Setting.UNKNOWN or (near[0] is Setting.ON and near[1] is Setting.UNKNOWN):
        yield unknown(check, f"{said}: whether NVLink joins them is unknown")
    elif near[0] is Setting.ON and near[1] is Setting.OFF:
        yield refused(check, f"{said}, which NVLink does not join as it does on the source")
    else:
        yield ok(check, said)


def _near(gpus: list[GpuInventory]) -> Setting:
    """Whether all are one GPU, or NVLink peers of each other."""
    if len({gpu.index for gpu in gpus}) == 1:
        return Setting.ON
    if any(gpu.facts is None or gpu.facts.nvlink is Setting.UNKNOWN for gpu in gpus):
        return Setting.UNKNOWN
    indices = {gpu.index for gpu in gpus}
    joined = all(indices <= {gpu.index, *gpu.nvlink_peers} for gpu in gpus)
    return Setting.ON if joined else Setting.OFF


def _named(side: Side, gpus: list[GpuInventory]) -> str:
    return f"GPU {' and '.join(str(gpu.index) for gpu in gpus)} of {side.host}"


def _about(index: int, verdict: Verdict) -> Verdict:
    return msgspec.structs.replace(verdict, about=f"vgpu{index}")


def _place_in_order(verdict: Verdict) -> tuple[int, str]:
    return _ORDER[verdict.check], verdict.about
