"""Which GPUs of a host NVLink joins, asked of NVML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from godwit_protocol.events.machine import GpuInventory
from godwit_protocol.facts import Setting

from .asking import Asker
from .library import NOT_SUPPORTED, Library, NvmlError

LINKS_MAX: Final = 36  # NVML_NVLINK_MAX_LINKS
TO_GPU, TO_SWITCH = 0, 2  # nvmlNvLinkDeviceType_t
_SWITCH: Final = "switch"


def with_peers(library: Library, gpus: Sequence[GpuInventory]) -> tuple[GpuInventory, ...]:
    """The GPUs, each with those that it has NVLink to. All on one switch are peers."""
    found = {gpu.index: _remotes(library, gpu.index) for gpu in gpus}
    addresses = {gpu.index: gpu.facts.pci_address for gpu in gpus if gpu.facts is not None}
    return tuple(_joined(gpu, found, addresses) for gpu in gpus)


def _joined(
    gpu: GpuInventory, found: dict[int, set[str] | str], addresses: dict[int, str]
) -> GpuInventory:
    ours = found[gpu.index]
    if isinstance(ours, str):
        return _with(gpu, (), Setting.UNKNOWN, ours)
    peers = tuple(
        index
        for index, theirs in found.items()
        if index != gpu.index and not isinstance(theirs, str)
        and (addresses[index] in ours or (_SWITCH in ours and _SWITCH in theirs))
    )  # fmt: skip
    return _with(gpu, peers, Setting.ON if peers else Setting.OFF)


def _with(
    gpu: GpuInventory, peers: tuple[int, ...], nvlink: Setting, why_unknown: str = ""
) -> GpuInventory:
    assert gpu.facts is not None
    unanswered = dict(gpu.facts.unanswered)
    if why_unknown:
        unanswered["nvlink"] = why_unknown
    facts = msgspec.structs.replace(gpu.facts, nvlink=nvlink, unanswered=unanswered)
    return msgspec.structs.replace(gpu, nvlink_peers=peers, facts=facts)


def _remotes(library: Library, index: int) -> set[str] | str:
    """What the active links of a GPU lead to: PCI addresses, or a switch; or why it is unknown.

    NVML documents NOT_SUPPORTED for the first link as: the device has no NVLink.
    """
    remotes: set[str] = set()
    for link in range(LINKS_MAX):
        try:
            remotes |= _remote(library, index, link)
        except NvmlError as error:
            if link == 0 and error.status != NOT_SUPPORTED:
                return error.text
            break  # there is no such link, and none after it
    return remotes


def _remote(library: Library, index: int, link: int) -> set[str]:
    device = library.ask("nvmlDeviceGetHandleByIndex", index)
    if not library.ask("nvmlDeviceGetNvLinkState", device, link):
        return set()
    asker = Asker(library)
    kind = asker.ask("nvlink", "nvmlDeviceGetNvLinkRemoteDeviceType", device, link)
    if kind == TO_SWITCH:
        return {_SWITCH}
    if kind != TO_GPU:
        return set()
    pci = library.ask("nvmlDeviceGetNvLinkRemotePciInfo", device, link)
    return {pci["busId"].lower()}
