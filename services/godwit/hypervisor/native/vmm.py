"""The VMM: the process that holds one machine (``python -m godwit.hypervisor.native.vmm``).

One thread, one loop: serve the control socket, then let the guest do one step, unless the flag that
stops it is up. Commands are thus always answered between two steps, which is where a stun lands.
Guest I/O has its own thread. It knows neither migrations nor peers: who may run the machine is its
caller's to decide; it only refuses an epoch that is older than one it has seen.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from godwit.runtime.event_log import EventLog

# Not by the thread that needs it: the import would hold up what the VMM is asked meanwhile.
from godwit.runtime.nats_log import NatsLog
from godwit_protocol.errors import (
    ConflictError,
    CorruptError,
    GodwitError,
    GuestError,
    InvalidInputError,
    RemoteProtocolError,
    UnsupportedError,
)

from ..port import VmmState
from . import kernel, wire
from .execution import Execution
from .guest_io import GuestIo
from .guest_queues import IoState
from .memory import MachineMemory
from .paths import MachineFolder
from .server import ControlServer
from .slowing import Slowing
from .stop_flag import StopFlag

FIRST_CONTACT_S_MAX: Final = 10.0
LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LAST_REPLIES_S_MAX: Final = 1.0
IDLE_S_MAX: Final = 1.0
"""An idle guest is asked again after this time whether it still is."""
SWITCH_INTERVAL_S: Final = 0.0005
"""How long a busy guest may keep guest I/O from running, and the other way round."""

_ANY: Final = frozenset(VmmState)
_ALLOWED: Final[dict[type[wire.Message], frozenset[VmmState]]] = {
    wire.GetStatus: _ANY,
    wire.GetRegions: _ANY,
    wire.GetStopFlag: _ANY,
    wire.Stop: _ANY,
    wire.Start: frozenset({VmmState.GATED}),
    wire.Populate: frozenset({VmmState.GATED}),
    wire.Load: frozenset({VmmState.GATED}),
    wire.OpenGate: frozenset({VmmState.LOADED}),
    wire.Pause: frozenset({VmmState.RUNNING, VmmState.PAUSED}),
    wire.Resume: frozenset({VmmState.PAUSED}),
    wire.Halt: frozenset({VmmState.RUNNING}),
    wire.Slow: frozenset({VmmState.RUNNING, VmmState.PAUSED}),
}

_log = logging.getLogger(__name__)
_commands: msgspec.msgpack.Decoder[wire.VmmCommand] = msgspec.msgpack.Decoder(wire.VmmCommand)


class MachineCheckpoint(msgspec.Struct, frozen=True):
    """What ``pause`` gives and ``load`` takes."""

    guest: bytes
    io: IoState
    steps: int
    halted: bool = False


# Built here: the first use of a type costs half a millisecond, which would be part of a stun.
_checkpoints: msgspec.msgpack.Decoder[MachineCheckpoint] = msgspec.msgpack.Decoder(
    MachineCheckpoint
)


class VmmProcess:
    """One machine: its memory, its guest, its state."""

    def __init__(self, order: wire.Spawn, listener: socket.socket) -> None:
        """Allocate the memory and construct the guest; a guest that cannot be is FAILED."""
        self._spec = order.spec
        self._state = VmmState.GATED
        self._failure = ""
        self._epoch = 0
        self._stopping = False
        self._halted = False
        """Whether an operator lets the guest stand still: it goes with the machine."""
        self._paused: wire.Paused | None = None
        self._idle_s = 0.0
        self._woken = False
        """Whether there may be something to take that no step has looked for yet."""
        self._slowing = Slowing()
        self._stop_flag, self._stop_flag_fd = StopFlag.allocate()
        self._worked_ns = time.monotonic_ns()
        self._execution: Execution | None = None
        self._memory = MachineMemory.allocate(self._spec.regions())
        self._tracking_fd = _tracked(self._memory)
        self._io = GuestIo(self._spec.name, lambda: _connect(order.nats_url, self._spec.name))
        self._server = ControlServer(listener, self._answer)
        self._server.watch(self._io.wake_fd, self._wake)
        self._construct()

    def _construct(self) -> None:
        try:
            self._execution = Execution(self._spec, self._memory, self._stop_flag)
        except GodwitError as error:
            self._fail(error)
        else:
            self._io.start()

    def run(self) -> None:
        """Serve and step until told to stop."""
        while not self._stopping:
            self._server.poll(self._wait_s())
            if self._may_step():
                self._step()
            if self._state is VmmState.RUNNING:
                self._io.release()  # after the first step, which need not wait for its thread
        if self._state is VmmState.RUNNING:
            self._io.flush(LAST_REPLIES_S_MAX)

    def _wait_s(self) -> float | None:
        """How long nothing is to be done but what comes from outside; None: for ever."""
        if self._state is not VmmState.RUNNING or self._halted:
            return None
        idle_s = 0.0 if self._woken else self._idle_s
        return max(idle_s, self._stands_ns(time.monotonic_ns()) / 1e9)

    def _stands_ns(self, now_ns: int) -> int:
        """For how long the guest may not step, whatever there is to do."""
        return max(self._slowing.wait_ns(now_ns), self._stop_flag.stands_ns(now_ns))

    def _wake(self) -> None:
        """Perhaps the next step may not come yet: then it is due as soon as it may."""
        self._io.drain_wake()
        self._woken = True

    def _may_step(self) -> bool:
        running = self._state is VmmState.RUNNING and not self._stopping
        return running and not self._halted and not self._stands_ns(time.monotonic_ns())

    def _step(self) -> None:
        execution = self._guest()
        began_ns = time.monotonic_ns()
        self._woken = False
        try:
            requests = self._io.take(execution.batch)
            if requests or not execution.idle:
                replies = execution.step([request.data for request in requests])
                self._worked_ns = time.monotonic_ns()
                self._slowing.stepped(began_ns, self._worked_ns)
                self._io.reply(requests, replies)
            self._idle_s = IDLE_S_MAX if execution.idle and not self._io.waiting() else 0.0
        except GuestError as error:
            self._fail(error)

    def _fail(self, error: GodwitError) -> None:
        _log.error("machine %s failed: %s", self._spec.name, error)
        self._io.hold()
        self._failure = str(error)
        self._state = VmmState.FAILED

    def _guest(self) -> Execution:
        assert self._execution is not None, "only a FAILED machine has no guest"
        return self._execution

    def _answer(self, body: bytes) -> tuple[wire.Message, Sequence[int]]:
        try:
            command = _commands.decode(body)
        except msgspec.DecodeError as error:
            raise RemoteProtocolError(f"a command that cannot be read: {error}") from error
        try:
            self._check_state(command)
            return self._obey(command)
        except GodwitError as error:
            if isinstance(error, GuestError):
                self._fail(error)
            return wire.failed(error), ()
        except Exception:
            # A defect in a command must not end the machine.
            _log.exception("%s failed", type(command).__name__)
            return wire.failed(
                GodwitError(f"{type(command).__name__} failed; see the VMM's log")
            ), ()

    def _check_state(self, command: wire.VmmCommand) -> None:
        if self._state not in _ALLOWED[type(command)]:
            raise ConflictError(
                f"machine {self._spec.name} is {self._state}: no {type(command).__name__} now",
                hint=self._failure,
            )

    def _obey(self, command: wire.VmmCommand) -> tuple[wire.Message, Sequence[int]]:
        match command:
            case wire.GetStatus():
                return self._status(), ()
            case wire.GetRegions():
                return self._regions()
            case wire.GetStopFlag():
                return wire.Done(), [self._stop_flag_fd]
            case wire.Start(epoch):
                return self._start(epoch), ()
            case wire.Pause():
                return self._pause(), ()
            case wire.Resume(epoch) | wire.OpenGate(epoch):
                return self._run(epoch), ()
            case wire.Slow(percent, for_ns):
                self._slowing.ask(percent, time.monotonic_ns() + for_ns)
                return wire.Done(), ()
            case wire.Halt(halted):
                self._halted = halted
                return wire.Done(), ()
            case wire.Load(checkpoint):
                return self._load(checkpoint), ()
            case wire.Populate(region, runs):
                return self._populate(region, runs), ()
            case wire.Stop():
                self._stopping = True
                return wire.Done(), ()

    def _status(self) -> wire.Status:
        steps = self._execution.steps if self._execution else 0
        return wire.Status(
            self._spec, self._state, self._epoch, os.getpid(), steps, self._failure, self._halted
        )

    def _regions(self) -> tuple[wire.Message, Sequence[int]]:
        regions = self._memory.regions
        addresses = tuple(region.address for region in regions)
        return wire.Regions(addresses), [region.fd for region in regions]

    def _start(self, epoch: int) -> wire.Running:
        self._io.begin(FIRST_CONTACT_S_MAX)
        self._guest().boot()
        return self._run(epoch)

    def _run(self, epoch: int) -> wire.Running:
        if epoch < self._epoch:
            raise ConflictError(
                f"machine {self._spec.name} has run in epoch {self._epoch}: {epoch} is over"
            )
        self._epoch = epoch
        self._state = VmmState.RUNNING
        self._stop_flag.down()
        self._paused = None
        self._idle_s = 0.0
        # The first step follows as soon as the answer is in the socket's buffer.
        self._worked_ns = time.monotonic_ns()
        return wire.Running(self._worked_ns)

    def _pause(self) -> wire.Paused:
        self._stop_flag.down()  # the command is here
        if self._paused is None:
            # An idle machine was ready to work until now; the wait of a slowed one is no stun.
            now_ns = time.monotonic_ns()
            waited = self._halted or self._idle_s or self._slowing.wait_ns(now_ns)
            stopped_ns = now_ns if waited else self._worked_ns
            self._io.hold()
            guest = self._guest()
            state = MachineCheckpoint(guest.save(), self._io.save(), guest.steps, self._halted)
            self._paused = wire.Paused(msgspec.msgpack.encode(state), stopped_ns)
            self._state = VmmState.PAUSED
        return self._paused

    def _load(self, data: bytes) -> wire.Done:
        try:
            checkpoint = _checkpoints.decode(data)
        except msgspec.DecodeError as error:
            raise CorruptError(f"a checkpoint that cannot be read: {error}") from error
        guest = self._guest()
        guest.load(checkpoint.guest)
        guest.steps = checkpoint.steps
        self._halted = checkpoint.halted
        self._io.load(checkpoint.io)
        self._state = VmmState.LOADED
        return wire.Done()

    def _populate(self, name: str, runs: bytes) -> wire.Done:
        try:
            pages = np.frombuffer(runs, "<i8").reshape(-1, 2)
            self._memory[name].populate(pages)
        except (KeyError, ValueError) as error:
            raise InvalidInputError(
                f"no such pages of machine {self._spec.name}: {error}"
            ) from error
        return wire.Done()


def _tracked(memory: MachineMemory) -> int | None:
    """Let the kernel track writes; None if it cannot. Whether that matters, the host knows."""
    try:
        return kernel.track_writes([(each.address, each.size_bytes) for each in memory.regions])
    except UnsupportedError as error:
        _log.warning("writes are not tracked: %s (%s)", error.message, error.hint)
        return None


async def _connect(url: str, machine: str) -> EventLog:
    return await NatsLog.connect(url, name=f"vmm-{machine}")


def main() -> None:
    """Run the VMM in the folder, with the listening socket and the lock, that are given."""
    folder = MachineFolder(Path(sys.argv[1]))
    listener_fd, lock_fd = int(sys.argv[2]), int(sys.argv[3])
    os.pwrite(lock_fd, str(os.getpid()).encode(), 0)  # the launcher may have died before it did
    os.set_inheritable(lock_fd, False)  # a process that the guest starts must not hold it
    logging.basicConfig(format=LOG_FORMAT, level=logging.INFO)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # A library of the guest may interrupt the main thread, wherever that is then. Not SIG_IGN: a
    # process that the guest starts would inherit it.
    signal.signal(signal.SIGINT, lambda *_: None)
    order = msgspec.msgpack.decode(folder.order.read_bytes(), type=wire.Spawn)
    try:
        VmmProcess(order, socket.socket(fileno=listener_fd)).run()
    except BaseException:
        _log.exception("the VMM of %s ends", order.spec.name)
        os._exit(1)
    # At once: the memory goes with the process, and its clients see it go.
    os._exit(0)


if __name__ == "__main__":
    main()
