"""The native driver: the hypervisor port, spoken to launcher and VMMs over their sockets.

Holds nothing that a restart would lose: what runs on a host is found in its directory.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Final

from godwit.runtime.choices import DirtyTracking
from godwit.transfer.sent_leaves import SentLeaves
from godwit_protocol.errors import (
    DeadlineError,
    GuestError,
    RefusedError,
    UnreachableError,
)
from godwit_protocol.machine import MachineSpec

from ..port import Checkpoint, VmmState, VmmStatus
from . import kernel, wire
from .channel import Channel, readable
from .digest_tracker import DigestTracker
from .dirty import DirtyTracker, WriteProtectTracker
from .incoming import IncomingMemory
from .memory import MachineMemory, Runs, available_bytes, batches
from .outgoing import OutgoingMemory
from .paths import LAUNCHER_SOCKET, MachineFolder
from .stop_flag import StopFlag
from .tracking_lease import TrackingLease
from .write_watch import NativeWriteWatch

ANSWER_S_MAX: Final = 5.0
"""For what a VMM answers at once, which is at the end of the guest's current step."""
GUEST_S_MAX: Final = 60.0
"""For what runs the guest's own code: its construction and its boot may read large files."""
POPULATE_S_MAX: Final = 30.0
"""For one batch: so all of it may take the longer, the larger the machine is."""
END_S_MAX: Final = 5.0
PID_PACE_S: Final = 0.02


class NativeVmm:
    """A handle on one native VMM; ``port.Vmm``, with access to its memory."""

    def __init__(
        self, folder: MachineFolder, tracking: DirtyTracking = DirtyTracking.PAGEMAP
    ) -> None:
        """``tracking``: how an outgoing machine's dirty pages are found; not ``AUTO``."""
        self._folder = folder
        self._tracking = tracking
        self._channel = Channel(folder.socket)
        self._stop_flag: StopFlag | None = None
        """Of one that is to leave: it is there before the stun."""

    @property
    def name(self) -> str:
        """The machine's name."""
        return self._folder.path.name

    async def status(self) -> VmmStatus:
        """Any state."""
        return await self._status(ANSWER_S_MAX)

    async def start(self, epoch: int) -> int:
        """GATED; see ``port.Vmm``. Raises ``GuestError`` if the guest's boot fails."""
        return (await self._channel.ask(wire.Start(epoch), wire.Running, GUEST_S_MAX)).began_ns

    async def pause(self) -> Checkpoint:
        """RUNNING or PAUSED; see ``port.Vmm``. Never waits for the log."""
        if self._stop_flag is not None:
            self._stop_flag.up()
        paused = await self._channel.ask(wire.Pause(), wire.Paused, ANSWER_S_MAX, at_once=True)
        return Checkpoint(paused.checkpoint, paused.stopped_ns)

    async def resume(self, epoch: int) -> int:
        """PAUSED; see ``port.Vmm``."""
        return (await self._channel.ask(wire.Resume(epoch), wire.Running, ANSWER_S_MAX)).began_ns

    async def halt(self, *, halted: bool) -> None:
        """RUNNING; see ``port.Vmm``."""
        await self._channel.ask(wire.Halt(halted), wire.Done, ANSWER_S_MAX)

    async def load(self, checkpoint: bytes) -> None:
        """GATED; see ``port.Vmm``. Raises ``GuestError``, ``CorruptError``."""
        await self._channel.ask(wire.Load(checkpoint), wire.Done, ANSWER_S_MAX)

    async def open_gate(self, epoch: int) -> int:
        """LOADED; see ``port.Vmm``. Never waits for the log."""
        opening = wire.OpenGate(epoch)
        running = await self._channel.ask(opening, wire.Running, ANSWER_S_MAX, at_once=True)
        return running.began_ns

    async def memory(self) -> MachineMemory:
        """Any state: the machine's memory, mapped into this process too. The caller closes it."""
        spec = (await self.status()).spec
        regions, fds = await self._regions()
        return MachineMemory.adopt(spec.regions(), fds, regions.addresses)

    async def region_files(self) -> Sequence[int]:
        """Any state; see ``port.Readable``."""
        _, fds = await self._regions()
        return fds

    async def _regions(self) -> tuple[wire.Regions, list[int]]:
        return await self._channel.ask_with_fds(wire.GetRegions(), wire.Regions, ANSWER_S_MAX)

    async def populate(self, extents: Sequence[Runs]) -> None:
        """GATED: make pages, one ``Runs`` a region, really there in the VMM.

        Raises ``RefusedError`` if memory is lacking; what was populated until then stays.
        """
        regions = (await self.status()).spec.regions()
        for region, runs in zip(regions, extents, strict=True):
            for batch in batches(runs):
                command = wire.Populate(region.name, batch.astype("<i8").tobytes())
                await self._channel.ask(command, wire.Done, POPULATE_S_MAX)

    async def slow(self, percent: int, for_s: float) -> None:
        """RUNNING or PAUSED: take so much of the guest's time from it, for so long at most."""
        command = wire.Slow(percent, int(for_s * 1e9))
        await self._channel.ask(command, wire.Done, ANSWER_S_MAX)

    async def outgoing(self) -> OutgoingMemory:
        """RUNNING; see ``port.Vmm``."""
        with ExitStack() as owned:
            lease = await TrackingLease.take(self._folder)
            owned.callback(lease.release)
            memory, tracker, leaves = await self._found_dirty()
            owned.callback(memory.close)
            owned.callback(tracker.close)
            if (stop_flag := await self._found_stop_flag()) is not None:
                owned.callback(stop_flag.close)
            outgoing = OutgoingMemory(memory, tracker, lease, self.slow, leaves)
            owned.pop_all()  # they are its own by now, and this handle's
            self._stop_flag = stop_flag
            return outgoing

    async def watch(self) -> NativeWriteWatch:
        """RUNNING; see ``port.Watchable``."""
        return NativeWriteWatch(self._folder, *await self._tracked())

    async def incoming(self) -> IncomingMemory:
        """GATED; see ``port.Vmm``."""
        memory = await self.memory()
        try:
            return IncomingMemory(memory, self.populate)
        except BaseException:
            memory.close()
            raise

    async def stop(self) -> None:
        """Any state; see ``port.Vmm``. A VMM that does not answer is killed."""
        await self._end()
        self._folder.remove()

    async def stop_for_its_log(self) -> None:
        """As ``stop``; but the log stays until the machine is created here again."""
        await self._end()
        self._folder.remove(keep_log=True)

    async def _end(self) -> None:
        process = await _process_of(self._folder)
        if process is None:
            return
        try:
            with suppress(UnreachableError):
                await self._channel.ask(wire.Stop(), wire.Done, ANSWER_S_MAX)
            await _ended(process)
        except DeadlineError:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            await _ended(process)
        finally:
            os.close(process)
            self.close()

    def close(self) -> None:
        """Let go of the handle; the VMM goes on."""
        self._channel.close()

    async def constructed(self) -> None:
        """Wait until a new VMM has constructed its guest. Raises ``GuestError`` if that failed."""
        try:
            status = await self._status(GUEST_S_MAX)
        except UnreachableError as error:
            raise UnreachableError(
                f"the VMM of {self.name} died at its start", hint=f"see {self._folder.log}"
            ) from error
        if status.state is VmmState.FAILED:
            raise GuestError(status.failure, hint=f"see {self._folder.log}")

    async def _found_stop_flag(self) -> StopFlag | None:
        """None: this VMM is of a version that had none, and hangs up on what it does not know. It
        is stopped by the command alone.
        """
        try:
            _, fds = await self._channel.ask_with_fds(wire.GetStopFlag(), wire.Done, ANSWER_S_MAX)
        except UnreachableError:
            return None
        return StopFlag(*fds)

    async def _found_dirty(self) -> tuple[MachineMemory, DirtyTracker, SentLeaves | None]:
        """The machine's memory, what finds its dirty pages, and, if that compares it, with what.
        The caller closes the first two.
        """
        if self._tracking is DirtyTracking.DIGEST:
            return await self._compared()
        return *await self._tracked(), None

    async def _compared(self) -> tuple[MachineMemory, DigestTracker, SentLeaves]:
        """The machine's memory, and what compares it with what was sent. The caller closes both."""
        memory = await self.memory()
        try:
            leaves = SentLeaves([region.page_count for region in memory.regions])
            return memory, DigestTracker((await self.status()).pid, memory, leaves), leaves
        except BaseException:
            memory.close()
            raise

    async def _tracked(self) -> tuple[MachineMemory, WriteProtectTracker]:
        """The machine's memory, and what finds its dirty pages. The caller closes both."""
        memory = await self.memory()
        try:
            return memory, WriteProtectTracker((await self.status()).pid, memory)
        except BaseException:
            memory.close()
            raise

    async def _status(self, deadline_s: float) -> VmmStatus:
        answer = await self._channel.ask(wire.GetStatus(), wire.Status, deadline_s)
        return VmmStatus(
            spec=answer.spec,
            state=answer.state,
            epoch=answer.epoch,
            pid=answer.pid,
            steps=answer.steps,
            failure=answer.failure,
            halted=answer.halted,
        )


class NativeHypervisor:
    """``port.Hypervisor`` for native machines on the host with this directory."""

    def __init__(
        self, host_dir: Path, nats_url: str, tracking: DirtyTracking = DirtyTracking.AUTO
    ) -> None:
        """``nats_url`` is where new VMMs reach the event log for guest I/O."""
        self._host_dir = host_dir
        self._nats_url = nats_url
        self._tracking = tracking

    @property
    def version(self) -> str:
        """See ``port.Hypervisor``: it comes with Godwit."""
        return metadata.version("godwit")

    def missing(self) -> Sequence[str]:
        """What the kernel lacks, found by trying."""
        return kernel.missing(self._done_without())

    def features(self) -> Sequence[str]:
        """What the kernel has, found by trying, and what is done without it."""
        without, probed = self._done_without(), kernel.probe().items()
        return [feature for feature, lacks in probed if not lacks or feature in without]

    def free_memory_bytes(self) -> int:
        """See ``port.Hypervisor``."""
        return available_bytes()

    async def create(self, spec: MachineSpec) -> NativeVmm:
        """See ``port.Hypervisor``. Raises ``UnreachableError`` if the host has no launcher."""
        _check_memory(spec.checked())
        launcher = Channel(self._host_dir / LAUNCHER_SOCKET)
        try:
            await launcher.ask(wire.Spawn(spec, self._nats_url), wire.Done, ANSWER_S_MAX)
        finally:
            launcher.close()
        vmm = NativeVmm(MachineFolder.of(self._host_dir, spec.name), self._way_of_tracking())
        try:
            await vmm.constructed()
        except BaseException:
            await vmm.stop_for_its_log()
            raise
        return vmm

    async def find(self, name: str) -> NativeVmm | None:
        """See ``port.Hypervisor``."""
        return self._if_alive(MachineFolder.of(self._host_dir, name))

    async def find_all(self) -> Sequence[NativeVmm]:
        """See ``port.Hypervisor``; by name."""
        found = map(self._if_alive, MachineFolder.all(self._host_dir))
        return [vmm for vmm in found if vmm is not None]

    async def find_dead(self) -> Sequence[str]:
        """See ``port.Hypervisor``; by name."""
        return [
            folder.path.name for folder in MachineFolder.all(self._host_dir) if _is_dead(folder)
        ]

    async def forget(self, name: str) -> None:
        """See ``port.Hypervisor``."""
        MachineFolder.of(self._host_dir, name).remove()

    def _if_alive(self, folder: MachineFolder) -> NativeVmm | None:
        try:
            wire.connect(folder.socket).close()
        except UnreachableError:
            return None
        except DeadlineError:
            pass  # it is slow, and alive
        return NativeVmm(folder, self._way_of_tracking())

    def _done_without(self) -> frozenset[str]:
        """Features of the kernel that are used where they are, and not needed."""
        needed = self._tracking is DirtyTracking.PAGEMAP
        return frozenset() if needed else frozenset({kernel.DIRTY_TRACKING})

    def _way_of_tracking(self) -> DirtyTracking:
        """What ``AUTO`` comes to on this kernel, which is tried once."""
        if self._tracking is not DirtyTracking.AUTO:
            return self._tracking
        return DirtyTracking.DIGEST if _kernel_cannot_track() else DirtyTracking.PAGEMAP


@lru_cache
def _kernel_cannot_track() -> bool:
    return bool(kernel.probe()[kernel.DIRTY_TRACKING])


def _is_dead(folder: MachineFolder) -> bool:
    try:
        return not folder.is_locked()
    except FileNotFoundError:  # it has not got so far, or never will
        return False


def _lives(folder: MachineFolder) -> bool:
    try:
        return folder.is_locked()
    except FileNotFoundError:
        return False


async def _process_of(folder: MachineFolder) -> int | None:
    """A pidfd of the machine's VMM; None if that is dead.

    Raises ``DeadlineError`` if it lives, and it is not known which process it is: it has only just
    been started, and the launcher has died.
    """
    try:
        async with asyncio.timeout(ANSWER_S_MAX):
            while True:
                process = _named(folder)
                # Locked now, so alive before, when the descriptor was taken: the number is not
                # another's.
                if not _lives(folder):
                    if process is not None:
                        os.close(process)
                    return None
                if process is not None:
                    return process
                await asyncio.sleep(PID_PACE_S)
    except TimeoutError as error:
        raise DeadlineError(
            f"the VMM of {folder.path.name} lives, and has not said which process it is"
        ) from error


def _named(folder: MachineFolder) -> int | None:
    """A pidfd of the process that the folder names; None if it names none that is there."""
    try:
        return os.pidfd_open(int(folder.pid.read_text(encoding="ascii")))
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None


async def _ended(process: int) -> None:
    """Wait until the process of this pidfd is dead, its memory and locks gone."""
    try:
        async with asyncio.timeout(END_S_MAX):
            await readable(process)
    except TimeoutError as error:
        raise DeadlineError(f"a VMM has not ended within {END_S_MAX} s") from error


def _check_memory(spec: MachineSpec) -> None:
    # Framebuffers are simulated here and sparse: only RAM must fit as a whole.
    available = available_bytes()
    if spec.ram_bytes > available:
        raise RefusedError(
            f"machine {spec.name} wants {spec.ram_bytes} bytes of RAM; {available} are available",
            hint="give it less, or start it on another host",
        )
