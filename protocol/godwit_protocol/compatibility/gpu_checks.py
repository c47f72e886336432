"""Checks of one vGPU between two GPUs. Each takes a ``Pair`` and gives one ``Verdict``. Pure.

Sources: NVIDIA's vGPU user guide, on live migration (board, memory, ECC and drivers alike; no
unified memory, debuggers or profilers), and NVML's vGPU API for its own verdict.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from ..facts import Compatibility, Limit, NvmlVerdict, Setting, VersionRange
from .case import GpuSide, Pair
from .verdict import Check, Verdict, ok, refused, unknown

PairCheck = Callable[[Pair], Verdict]


def board(pair: Pair) -> Verdict:
    """The same board: not H100 to H200, not SXM to PCIe, not real to simulated."""
    here, there = pair.source, pair.target
    if here.gpu.simulated != there.gpu.simulated:
        return refused(
            Check.GPU_BOARD,
            f"{here.name} and {there.name}: one of them is simulated, the other is not",
        )
    ours, theirs = here.facts.board, there.facts.board
    if not ours or not theirs:
        return _missing(Check.GPU_BOARD, "board", pair, bool(ours), bool(theirs))
    said = f"{here.name} is a {ours}, {there.name} a {theirs}"
    if ours != theirs or here.gpu.model != there.gpu.model:
        return refused(Check.GPU_BOARD, said, "choose a host with the same board")
    return ok(Check.GPU_BOARD, said)


def memory(pair: Pair) -> Verdict:
    """The same memory variant: not 80 GB PCIe to 94 GB NVL."""
    here, there = pair.source, pair.target
    ours, theirs = here.gpu.memory_bytes, there.gpu.memory_bytes
    if ours <= 0 or theirs <= 0:
        return _missing(Check.GPU_MEMORY, "memory", pair, ours > 0, theirs > 0)
    said = f"{here.name} has {_mib(ours)}, {there.name} {_mib(theirs)}"
    if ours != theirs:
        return refused(Check.GPU_MEMORY, said, "choose a host with the same memory variant")
    return ok(Check.GPU_MEMORY, said)


def division(pair: Pair) -> Verdict:
    """MIG or time-sliced alike. A simulated GPU becomes what its first vGPU needs."""
    wanted = _divided(pair)
    if wanted is None:
        return unknown(Check.GPU_DIVISION, f"the catalogue does not say how {pair.profile} divides")
    there = pair.target
    needed = f"{pair.profile} needs {'MIG mode' if wanted else 'time slices'}"
    if there.gpu.simulated:
        return ok(Check.GPU_DIVISION, f"{needed}, which {there.name} takes on while it is empty")
    actual = _mig_mode(pair)
    if actual is Setting.UNKNOWN:
        return unknown(
            Check.GPU_DIVISION,
            f"{needed}; the MIG mode of {there.name} is {there.why_unknown('mig')}",
            _ASK_THE_DRIVER,
        )
    said = f"{needed}; MIG mode is {actual} on {there.name}"
    if wanted is not (actual is Setting.ON):
        hint = f"nvidia-smi -i {there.gpu.index} -mig {int(wanted)}, while nothing sits there"
        return refused(Check.GPU_DIVISION, said, hint)
    return ok(Check.GPU_DIVISION, said)


def _divided(pair: Pair) -> bool | None:
    """Whether the profile is a MIG one on the target's model; None if the catalogue lacks it."""
    model = pair.catalogue.models.get(pair.target.gpu.model)
    if model is None:
        return None
    for section, is_mig in (
        (model.mig, True),
        (model.mig_backed, True),
        (model.time_sliced, False),
    ):
        if section is not None and any(item.name == pair.profile for item in section.profiles):
            return is_mig
    return None


def _mig_mode(pair: Pair) -> Setting:
    """A model without MIG has it off, whatever its driver says when asked."""
    model = pair.catalogue.models.get(pair.target.gpu.model)
    if model is not None and model.mig is None:
        return Setting.OFF
    return pair.target.facts.mig


def ecc_mode(pair: Pair) -> Verdict:
    """ECC on on both or off on both: the memory's layout depends on it."""
    ours, theirs = pair.source.facts.ecc, pair.target.facts.ecc
    if Setting.UNKNOWN in (ours, theirs):
        known = (ours is not Setting.UNKNOWN, theirs is not Setting.UNKNOWN)
        return _missing(Check.ECC_MODE, "ecc", pair, *known)
    said = f"{pair.source.name} has ECC {ours}, {pair.target.name} {theirs}"
    if ours is not theirs:
        hint = f"nvidia-smi -i {pair.target.gpu.index} -e {int(ours is Setting.ON)}, then a reset"
        return refused(Check.ECC_MODE, said, hint)
    return ok(Check.ECC_MODE, said)


def driver(pair: Pair) -> Verdict:
    """Drivers of one release branch: the number before the first dot."""
    ours, theirs = _driver(pair.source), _driver(pair.target)
    hosts = (pair.source.side.host, pair.target.side.host)
    for host, version in zip(hosts, (ours, theirs), strict=True):
        if not version:
            return unknown(Check.DRIVER, f"the driver of {host} is unknown", _ASK_THE_DRIVER)
    said = f"driver {ours} on {hosts[0]}, {theirs} on {hosts[1]}"
    if ours.partition(".")[0] != theirs.partition(".")[0]:
        return refused(Check.DRIVER, said, "install drivers of one release branch on both hosts")
    return ok(Check.DRIVER, said)


def vgpu_manager(pair: Pair) -> Verdict:
    """vGPU managers that have a version in common."""
    ours, theirs = pair.source.facts.vgpu_versions, pair.target.facts.vgpu_versions
    if ours is None or theirs is None:
        known = (ours is not None, theirs is not None)
        return _missing(Check.VGPU_MANAGER, "vgpu_versions", pair, *known)
    said = f"{pair.source.name} speaks vGPU versions {_range(ours)}, {pair.target.name} "
    said += _range(theirs)
    if max(ours.low, theirs.low) > min(ours.high, theirs.high):
        return refused(Check.VGPU_MANAGER, said, "install vGPU managers that overlap")
    return ok(Check.VGPU_MANAGER, said)


def unified_memory(pair: Pair) -> Verdict:
    """No unified memory: its pages move by themselves."""
    here = pair.source
    setting = here.facts.unified_memory
    hint = "set enable_uvm=0 for the vGPU and start the machine again"
    return _must_be_off(Check.UNIFIED_MEMORY, "unified memory", setting, here, hint)


def debugger_or_profiler(pair: Pair) -> Verdict:
    """Neither a debugger nor a profiler is attached: both keep state that does not move."""
    here = pair.source
    settings = {"a debugger": here.facts.debugger, "a profiler": here.facts.profiler}
    for what, setting in settings.items():
        hint = f"detach the {what}, and allow none for the vGPU"
        verdict = _must_be_off(Check.DEBUGGER_OR_PROFILER, what, setting, here, hint)
        if verdict.refuses:
            return verdict
    return ok(Check.DEBUGGER_OR_PROFILER, f"{here.name} has no debugger and no profiler on")


def nvml_verdict(pair: Pair) -> Verdict:
    """NVML itself, asked on the source about the target: the LIVE bit, and no limit."""
    here, there = pair.source, pair.target
    if here.gpu.simulated and there.gpu.simulated:
        return ok(Check.NVML_VERDICT, "both GPUs are SIMULATED: there is no NVML to ask")
    found = _nvml_said(pair)
    if found is None:
        return unknown(
            Check.NVML_VERDICT,
            f"NVML on {here.side.host} has not judged {pair.profile} on {here.name}"
            f" for {there.name}",
            "the source asks it within a minute of both hosts' announcements",
        )
    states, limits = Compatibility(found.states), Limit(found.limits)
    said = f"NVML says states {_flags(states)}, limits {_flags(limits)}"
    if Compatibility.LIVE not in states or limits:
        return refused(Check.NVML_VERDICT, said, _NVML_HINTS.get(_first(limits), ""))
    return ok(Check.NVML_VERDICT, said)


def _nvml_said(pair: Pair) -> NvmlVerdict | None:
    facts, metadata = pair.source.side.facts, pair.target.facts.metadata
    if facts is None or not metadata:
        return None
    digest = hashlib.sha256(metadata).digest()
    for verdict in facts.nvml_verdicts:
        asked = (verdict.gpu, verdict.vgpu_type, verdict.metadata_digest)
        if asked == (pair.source.gpu.index, pair.profile, digest):
            return verdict
    return None


def _must_be_off(check: Check, what: str, setting: Setting, here: GpuSide, hint: str) -> Verdict:
    match setting:
        case Setting.OFF:
            return ok(check, f"{here.name} has {what} off")
        case Setting.ON:
            return refused(check, f"{here.name} has {what} on", hint)
        case Setting.UNKNOWN:
            field = what.removeprefix("a ").replace(" ", "_")
            said = f"{here.name}: whether {what} is on is {here.why_unknown(field)}"
            return unknown(check, said, _DECLARE)


def _missing(check: Check, field: str, pair: Pair, here: bool, there: bool) -> Verdict:
    """``here`` and ``there``: whether each side's value is known; at least one is not."""
    sides = [side for side, known in ((pair.source, here), (pair.target, there)) if not known]
    said = "; ".join(
        f"{_WORDS[field]} of {side.name} is {side.why_unknown(field)}" for side in sides
    )
    return unknown(check, said, _ASK_THE_DRIVER)


def _driver(side: GpuSide) -> str:
    facts = side.side.facts
    return "" if facts is None else facts.driver


def _mib(size_bytes: int) -> str:
    return f"{size_bytes // 2**20} MiB"


def _range(versions: VersionRange) -> str:
    return f"{versions.low} to {versions.high}"


def _flags(flags: Compatibility | Limit) -> str:
    names = [str(flag.name).lower() for flag in type(flags) if flag and flag in flags]
    return " and ".join(names) or "none"


def _first(limits: Limit) -> Limit:
    return next((limit for limit in Limit if limit and limit in limits), Limit.NONE)


_ASK_THE_DRIVER: Final = "see nvidia-smi -q on that host"
_DECLARE: Final = "NVML cannot tell it: declare it with GODWIT_GPU_FACTS on that host"
_WORDS: Final = {
    "board": "the board",
    "memory": "the memory",
    "ecc": "the ECC mode",
    "vgpu_versions": "the vGPU manager's version",
}
_NVML_HINTS: Final = {
    Limit.HOST_DRIVER: "install the same vGPU manager on both hosts",
    Limit.GUEST_DRIVER: "install a guest driver that the destination's vGPU manager takes",
    Limit.GPU: "choose a host with the same GPU",
}

CHECKS: Final[dict[Check, PairCheck]] = {
    Check.GPU_BOARD: board,
    Check.GPU_MEMORY: memory,
    Check.GPU_DIVISION: division,
    Check.ECC_MODE: ecc_mode,
    Check.DRIVER: driver,
    Check.VGPU_MANAGER: vgpu_manager,
    Check.UNIFIED_MEMORY: unified_memory,
    Check.DEBUGGER_OR_PROFILER: debugger_or_profiler,
    Check.NVML_VERDICT: nvml_verdict,
}
