"""Looks now and then at what each machine of the host writes, and tells the cluster.

Estimates are made from it. Nobody waits for it, and it decides nothing: what it says is telemetry.
A machine that is being moved is left alone, which is the hypervisor's to see to.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from godwit.host.context import HostContext
from godwit.hypervisor.port import Look, Vmm, VmmState, Watchable, WriteWatch
from godwit.runtime.clock import Clock
from godwit_protocol import subjects
from godwit_protocol.errors import GodwitError
from godwit_protocol.estimation.history import WINDOW_NS, DirtyWindow, RegionWrites, encode
from godwit_protocol.estimation.sampling import next_begin_ns

KIND: Final = "writes"
TURN_S: Final = 0.5
WINDOWS_AT_ONCE: Final = 4

_log = structlog.get_logger(__name__)


class Sampler:
    """The machines of one host, one window after the other for each of them."""

    def __init__(self, host: HostContext, period_ns: int) -> None:
        self._host = host
        self._period_ns = period_ns
        self._not_before_ns: dict[str, int] = {}
        self._free = asyncio.Semaphore(WINDOWS_AT_ONCE)

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            await self._turn()
            await asyncio.sleep(TURN_S)

    async def _turn(self) -> None:
        """Sample whatever is due. No handle on a VMM stays behind."""
        vmms = await self._host.hypervisor.find_all()
        names = {vmm.name for vmm in vmms}
        self._not_before_ns = {n: t for n, t in self._not_before_ns.items() if n in names}
        await asyncio.gather(*(self._sample(vmm) for vmm in vmms if self._is_due(vmm.name)))

    def _is_due(self, name: str) -> bool:
        return self._host.clock.monotonic_ns() >= self._not_before_ns.get(name, 0)

    async def _sample(self, vmm: Vmm) -> None:
        """One window. What comes between is no trouble: there will be another."""
        began_ns = self._host.clock.monotonic_ns()
        self._not_before_ns[vmm.name] = began_ns + self._period_ns
        try:
            async with self._free:
                window = await take_window(vmm, self._host.name, self._host.clock)
        except (GodwitError, OSError) as error:
            _log.debug("no_window", machine=vmm.name, error=str(error))
            return
        except Exception:  # a defect here must not end the service that owns the machines
            _log.exception("sampling_broke", machine=vmm.name)
            return
        if window is not None:
            self._not_before_ns[vmm.name] = began_ns + next_begin_ns(window, self._period_ns)
            subject = subjects.telemetry("machine", vmm.name, KIND)
            await self._host.log.announce(subject, encode(window))


async def take_window(vmm: Vmm, host: str, clock: Clock) -> DirtyWindow | None:
    """Look at what a machine writes for ``WINDOW_NS``; None if it does not run or cannot be
    watched.

    Raises ``ConflictError`` if a migration tracks it, ``UnreachableError``, ``DeadlineError``.
    """
    status = await vmm.status()
    if status.state is not VmmState.RUNNING or not isinstance(vmm, Watchable):
        return None
    watch = await vmm.watch()
    try:
        held, looks = await _look_at(watch, clock)
    finally:
        await watch.close()
    return DirtyWindow(
        machine=vmm.name,
        host=host,
        epoch=status.epoch,
        taken_wall_ns=clock.wall_ns(),
        elapsed_ns=tuple(look.at_ns - held.at_ns for look in looks),
        regions=tuple(
            RegionWrites(name, resident_bytes, _rising(name, looks))
            for name, resident_bytes in held.bytes_by_region.items()
        ),
        cost_ns=held.cost_ns + sum(look.cost_ns for look in looks),
    )


async def _look_at(watch: WriteWatch, clock: Clock) -> tuple[Look, list[Look]]:
    held = await watch.begin()
    looks = []
    for after_ns in WINDOW_NS:
        wait_ns = held.at_ns + after_ns - clock.monotonic_ns()
        await asyncio.sleep(max(wait_ns, 0) / 1e9)
        looks.append(await watch.look())
    return held, looks


def _rising(region: str, looks: list[Look]) -> tuple[int, ...]:
    """The region's curve. A sweep takes its time: one may have missed what the one before saw."""
    written: list[int] = []
    for look in looks:
        written.append(max([look.bytes_by_region[region], *written[-1:]]))
    return tuple(written)
