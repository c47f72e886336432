"""Checks of a machine between two hosts, whatever its GPUs. Each gives one ``Verdict``. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from ..link_probe import LinkFound, LinkUnknown
from ..machine import HypervisorKind
from ..quantities import format_size
from .case import Case, Side
from .verdict import Check, Verdict, ok, refused, unknown

HostCheck = Callable[[Case], Verdict]

NEEDED_FEATURES: Final[dict[HypervisorKind, tuple[str, ...]]] = {
    HypervisorKind.NATIVE: ("memfd_holes", "populate", "dirty_tracking"),
    HypervisorKind.QEMU: (),
}
"""What a hypervisor needs of a kernel, by the names that hosts announce."""
LOOPBACK: Final = ("127.", "::1", "localhost")
_ONE_RELEASE: Final = "bring both hosts to one release"


def hypervisor(case: Case) -> Verdict:
    """The destination runs machines of this kind."""
    kind, there = case.spec.hypervisor, case.destination
    if there.announced is None:
        return unknown(Check.HYPERVISOR, f"host {there.host} has not announced itself")
    have = ", ".join(there.announced.hypervisors) or "none"
    said = f"the machine needs {kind}; {there.host} runs {have}"
    if kind not in there.announced.hypervisors:
        return refused(Check.HYPERVISOR, said, " ".join(there.announced.missing))
    return ok(Check.HYPERVISOR, said)


def hypervisor_version(case: Case) -> Verdict:
    """The destination's is not older: it reads what the source's writes."""
    kind, check = case.spec.hypervisor, Check.HYPERVISOR_VERSION
    versions = [_version(side, kind) for side in (case.source, case.destination)]
    for side, version in zip((case.source, case.destination), versions, strict=True):
        if not version:
            return unknown(check, f"the version of {kind} on {side.host} is unknown")
    ours, theirs = versions
    said = f"{kind} {ours} on {case.source.host}, {theirs} on {case.destination.host}"
    if ours == theirs:
        return ok(check, said)
    numbers = (_numbers(ours), _numbers(theirs))
    if numbers[0] is None or numbers[1] is None:
        return unknown(check, f"{said}: which of them is newer is unknown")
    if numbers[0] > numbers[1]:
        return refused(check, said, f"bring {case.destination.host} to {ours} first")
    if numbers[0] == numbers[1] and not all(map(_RELEASE.fullmatch, versions)):
        return unknown(check, f"{said}: which of them is newer is unknown")
    return ok(check, said)


def kernel_features(case: Case) -> Verdict:
    """The destination's kernel has all that the machine's hypervisor needs."""
    check, there = Check.KERNEL_FEATURES, case.destination
    found = [_features(side) for side in (case.source, there)]
    for side, features in zip((case.source, there), found, strict=True):
        if features is None:
            return unknown(check, f"the kernel features of {side.host} are unknown")
    assert found[1] is not None
    needed = NEEDED_FEATURES[case.spec.hypervisor]
    lacking = [name for name in needed if name not in found[1]]
    kernels = (
        f"Linux {_kernel(case.source)} on {case.source.host}, {_kernel(there)} on {there.host}"
    )
    if lacking:
        return refused(
            check,
            f"{kernels}; {there.host} lacks {', '.join(lacking)}",
            "docs/deployment.md says what the kernel must have",
        )
    return ok(check, f"{kernels}; both have {', '.join(needed) or 'all that is needed'}")


def free_ram(case: Case) -> Verdict:
    """The machine's RAM fits into what is free. Framebuffers are counted on the GPU."""
    check, there = Check.FREE_RAM, case.destination
    free = None if there.facts is None else there.facts.free_memory_bytes
    needed = case.spec.ram_bytes
    if free is None:
        return unknown(check, f"how much RAM is free on {there.host} is unknown")
    said = f"{_size(needed)} needed, {_size(free)} free on {there.host}"
    return ok(check, said) if needed <= free else refused(check, said, "choose another host")


def host_link(case: Case) -> Verdict:
    """The source reaches where the destination listens, and both speak one link: what they
    announced of it first, then what the source found there.
    """
    check, here, there = Check.HOST_LINK, case.source, case.destination
    versions = [None if side.facts is None else side.facts.link_version for side in (here, there)]
    address = "" if there.facts is None else there.facts.link_address
    if not address or None in versions:
        side = there if not address or versions[1] is None else here
        return unknown(check, f"the link of {side.host} is unknown")
    said = f"{there.host} listens at {address}, link version {versions[0]} and {versions[1]}"
    if versions[0] != versions[1]:
        return refused(check, said, _ONE_RELEASE)
    if address.startswith(LOOPBACK) and (here.boot != there.boot or not here.boot):
        return refused(
            check,
            f"{said}, which {here.host} cannot reach: it is another machine",
            f"set GODWIT_LINK_HOST on {there.host} to an address that other hosts reach",
        )
    return _found(here.host, there.host, case.link)


def _found(here: str, there: str, link: LinkFound | LinkUnknown) -> Verdict:
    """What the source found, as a verdict."""
    check = Check.HOST_LINK
    if isinstance(link, LinkUnknown):
        said = f"whether {here} reaches the link of {there} is unknown: {link.why}"
        return unknown(check, said, link.hint)
    at = f"{link.address}:{link.port}"
    if link.error:
        return refused(
            check,
            f"{here} does not reach {there}: {link.error}",
            f"open the port to {here}, or set GODWIT_LINK_HOST on {there} to an address that it"
            " reaches",
        )
    if link.answered_by != there:
        return refused(
            check,
            f"{here} reaches {link.answered_by} at {at}, not {there}",
            f"set GODWIT_LINK_HOST on {there} to an address that is its own",
        )
    said = f"{here} reaches {there} at {at}, link version {link.own_version} and {link.version}"
    if link.version != link.own_version:
        return refused(check, said, _ONE_RELEASE)
    return ok(check, f"{said}; answered in {link.answer_ns / 1e6:.1f} ms")


def _version(side: Side, kind: HypervisorKind) -> str:
    return "" if side.facts is None else side.facts.hypervisor_versions.get(kind, "")


_RELEASE: Final = re.compile(r"\d+(\.\d+)*")


def _numbers(version: str) -> tuple[int, ...] | None:
    """Without zeros at the end: 1.4 is 1.4.0."""
    found = _RELEASE.match(version)
    if not found:
        return None
    numbers = [int(part) for part in found[0].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _features(side: Side) -> tuple[str, ...] | None:
    return None if side.facts is None else side.facts.kernel_features


def _kernel(side: Side) -> str:
    return "" if side.announced is None else side.announced.kernel


def _size(size_bytes: int) -> str:
    return format_size(size_bytes // 2**20 * 2**20)


CHECKS: Final[dict[Check, HostCheck]] = {
    Check.HYPERVISOR: hypervisor,
    Check.HYPERVISOR_VERSION: hypervisor_version,
    Check.KERNEL_FEATURES: kernel_features,
    Check.FREE_RAM: free_ram,
    Check.HOST_LINK: host_link,
}
