"""Starting and stopping machines on this host, as an operator asked by an event.

Each request is answered by exactly one event; a request that comes again after a restart finds its
answer in the log and is left alone.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final
from weakref import WeakValueDictionary

import structlog

from godwit.catalogue.loading import load as load_catalogue
from godwit.host.context import HostContext
from godwit.hypervisor.port import Vmm, VmmState
from godwit.runtime.lane import LaneWriter, Scope, position_in_log
from godwit.runtime.patience import DECISION_S_MAX, patiently
from godwit_protocol import codec
from godwit_protocol import register as reg
from godwit_protocol.catalogue import Catalogue
from godwit_protocol.errors import (
    ConflictError,
    DeadlineError,
    GodwitError,
    InDoubtError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnreachableError,
)
from godwit_protocol.events import Event, Lane, stored_hash
from godwit_protocol.events import machine as mev
from godwit_protocol.events.reservation import (
    ReservationGranted,
    ReservationRefused,
    ReservationRequested,
)
from godwit_protocol.ledger import may_start
from godwit_protocol.machine import MachineSpec
from godwit_protocol.projections import MachineSummary, fold_machine
from godwit_protocol.roles.inputs import CasUnclear
from godwit_protocol.subjects import checked_name

ATTEMPTS_MAX: Final = 5
"""Of finding a place in a lane that another life of this service still writes."""
RESERVATION_S_MAX: Final = 15.0
CAS_TRIES_MAX: Final = 5
CAS_PACE_S: Final = 0.5

_log = structlog.get_logger(__name__)


class RegisterUnclearError(UnreachableError):
    """A register may or may not have been written: nobody can be told what came of it."""


class Machines:
    """The machines of one host, as far as their life is concerned."""

    def __init__(
        self,
        host: HostContext,
        is_moving: Callable[[str], bool],
        until_let_go: Callable[[str], Awaitable[None]],
    ) -> None:
        """``is_moving`` tells whether a machine is being migrated away; ``until_let_go`` waits
        until a migration of it that is over lets go of it.
        """
        self._host = host
        self._is_moving = is_moving
        self._until_let_go = until_let_go
        self._reservations: dict[str, asyncio.Future[ReservationGranted | ReservationRefused]] = {}
        self._changing: Counter[str] = Counter()
        self._alone: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def is_changing(self, name: str) -> bool:
        """Whether the machine is being started, stopped or paused."""
        return name in self._changing

    async def start(self, request: mev.MachineStartRequested) -> None:
        """Start the machine, or say why not. Nothing of a failed attempt stays."""
        async with self._change(request.spec.name):
            await _done(lambda: self._answer_start(request))

    async def stop(self, name: str, request: mev.MachineStopRequested) -> None:
        """Stop the machine, or say why not."""
        async with self._change(name):
            await _done(lambda: self._answer_stop(name, request))

    async def pause(
        self, name: str, asked: mev.MachinePauseRequested | mev.MachineResumeRequested
    ) -> None:
        """Let the machine stand still, or go on, or say why not. Asked twice, it is done twice."""
        async with self._change(name):
            await _done(lambda: self._answer_pause(name, asked))

    async def _answer_pause(
        self, name: str, asked: mev.MachinePauseRequested | mev.MachineResumeRequested
    ) -> None:
        writer = await self._writer(name)
        paused = isinstance(asked, mev.MachinePauseRequested)
        done = mev.MachinePaused if paused else mev.MachineResumed
        try:
            await (await self._free_to_change(name)).halt(halted=paused)
            answer: Event = done(request=asked.request)
        except GodwitError as error:
            answer = mev.MachinePauseRefused(
                request=asked.request, code=error.code, message=error.message
            )
        _log.info(answer.TYPE, machine=name)
        await self._append(writer, answer)

    async def _free_to_change(self, name: str) -> Vmm:
        """The machine's VMM, if it is this host's. Raises ``NotFoundError``, ``ConflictError``."""
        view, vmm = await self._let_go(name)
        if vmm is None or not reg.may_run(view.record, self._host.name):
            raise NotFoundError(f"machine {name} is not on host {self._host.name}")
        if self._is_moving(name):
            raise ConflictError(
                f"machine {name} is being migrated", hint="wait for its end, or cancel it"
            )
        return vmm

    async def _let_go(self, name: str) -> tuple[reg.RegisterView, Vmm | None]:
        """The machine's register, and its VMM here, once a migration of it that is over has let go
        of it: until then neither need stay what it is. Raises ``RegisterUnclearError``.
        """
        await self._until_let_go(name)
        view = await self._register(name)
        return view, await self._host.hypervisor.find(name)

    async def tell(self, name: str, event: Event) -> None:
        """Write an event of the machine's life to the log."""
        async with self._alone_with(name):
            await self._append(await self._writer(name), event)

    async def report_failure(self, name: str, message: str, *, said_in: int = 0) -> int:
        """Say that a machine of this host does not run any more, unless the log says so already.

        Returns the register's epoch in which it is said now, 0 if the machine is not this host's.
        ``said_in``: what this returned before.
        """
        async with self._alone_with(name):
            record = (await self._host.registers.read(name)).record
            if record is None or not reg.may_run(record, self._host.name):
                return 0
            if record.epoch == said_in:
                return said_in
            if not await self._does_not_run(name):  # it was stopped and started anew meanwhile
                return 0
            summary = MachineSummary(name=name)
            async for stored in self._host.log.read(Scope.of_machine(name).filters()):
                summary = fold_machine(summary, codec.decode(stored.data, stored.sequence))
            if not summary.failure_in(record.epoch):
                _log.error("machine_failed", machine=name, error=message)
                failed = mev.MachineFailed(message=message, register_epoch=record.epoch)
                await self._append(await self._writer(name), failed)
            return record.epoch

    async def _does_not_run(self, name: str) -> bool:
        vmm = await self._host.hypervisor.find(name)
        if vmm is None:
            return name in await self._host.hypervisor.find_dead()
        return bool(await is_failed(vmm))

    @asynccontextmanager
    async def _change(self, name: str) -> AsyncIterator[None]:
        """Alone with the machine, which no migration is to begin with meanwhile."""
        self._changing[name] += 1
        try:
            async with self._alone_with(name):
                yield
        finally:
            self._changing[name] -= 1
            if not self._changing[name]:
                del self._changing[name]

    def _alone_with(self, name: str) -> asyncio.Lock:
        """What changes a machine goes one after the other, and so does what is written of it, for a
        lane has one writer.
        """
        return self._alone.setdefault(name, asyncio.Lock())

    async def _answer_start(self, request: mev.MachineStartRequested) -> None:
        name = request.spec.name
        if await self._is_answered(name, "start", request.start):
            return
        writer = await self._writer(name)
        try:
            epoch = await self._start(request, writer)
        except RegisterUnclearError:
            raise
        except GodwitError as error:
            refusal = mev.MachineStartRefused(
                start=request.start, code=error.code, message=error.message, hint=error.hint
            )
            _log.warning("machine_start_refused", machine=name, error=error.message)
            await self._append(writer, refusal)
            return
        started = mev.MachineStarted(start=request.start, spec=request.spec, register_epoch=epoch)
        _log.info("machine_started", machine=name, epoch=epoch)
        await self._append(writer, started)

    async def _answer_stop(self, name: str, request: mev.MachineStopRequested) -> None:
        if await self._is_answered(name, "stop", request.stop):
            return
        writer = await self._writer(name)
        try:
            epoch = await self._stop(name, request.stop)
        except RegisterUnclearError:
            raise
        except GodwitError as error:
            refusal = mev.MachineStopRefused(
                stop=request.stop, code=error.code, message=error.message
            )
            await self._append(writer, refusal)
            return
        _log.info("machine_stopped", machine=name)
        await self._append(writer, mev.MachineStopped(stop=request.stop, register_epoch=epoch))

    def answer_reservation(self, answer: ReservationGranted | ReservationRefused) -> None:
        """Take the tracker's answer."""
        waiting = self._reservations.get(answer.reservation)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    async def _start(self, request: mev.MachineStartRequested, writer: LaneWriter) -> int:
        spec = _checked(request.spec, load_catalogue(self._host.config.catalogue_file))
        view = await self._register(spec.name)
        if view.record is not None and view.record.start == request.start:
            return await self._started_before(view.record)
        if view.record is not None and view.record.value not in reg.UNOWNED:
            raise ConflictError(
                f"machine {spec.name} exists on host {view.record.owner}",
                hint="choose another name, or stop that machine first",
            )
        await self._clear_unowned(spec.name)
        expires_wall_ns = await self._reserve(request, writer)
        vmm = await self._host.hypervisor.create(spec)
        try:
            self._require_held(expires_wall_ns)
            record = reg.started(spec.name, self._host.name, view.record, request.start)
            await self._own(record, view.sequence)
            try:
                await vmm.start(record.epoch)
            except GodwitError:
                await self._disown(spec.name)
                raise
        except BaseException:
            await _end(vmm)
            raise
        return record.epoch

    async def _started_before(self, record: reg.RegisterRecord) -> int:
        """Go on with a start that a former life of this service did not come to answer.

        Returns the epoch. Raises ``ConflictError`` if the machine has been stopped since.
        """
        if record.value in reg.UNOWNED:
            raise ConflictError(
                f"machine {record.machine} was started, and is {record.value} since"
            )
        if record.value is reg.RegisterValue.STARTED:
            vmm = await self._host.hypervisor.find(record.machine)
            if vmm is None:
                await self._disown(record.machine)
                raise UnreachableError(f"the VMM of {record.machine} died at its start")
            if (await vmm.status()).state is VmmState.GATED:
                await vmm.start(record.epoch)
        return record.epoch

    async def _clear_unowned(self, name: str) -> None:
        """End a VMM that a former attempt created and that never ran."""
        vmm = await self._host.hypervisor.find(name)
        if vmm is None:
            return
        if (await vmm.status()).state is not VmmState.GATED:
            raise ConflictError(
                f"a VMM of machine {name} is on this host, but nobody owns it",
                hint="if it was left behind there, end it: see docs/in-doubt.md",
            )
        await vmm.stop()

    def _require_held(self, expires_wall_ns: int) -> None:
        """Raise ``DeadlineError`` if the reservation may end before all know that it is used."""
        if not may_start(expires_wall_ns, self._host.clock.wall_ns()):
            raise DeadlineError(
                "the start took so long that its GPU reservation is about to expire",
                hint="start the machine again",
            )

    async def _reserve(self, request: mev.MachineStartRequested, writer: LaneWriter) -> int:
        """Ask the tracker for the vGPUs; return when they are free again unless used (0: never).

        Raises ``RefusedError``, ``DeadlineError``.
        """
        spec = request.spec
        if not spec.vgpus:
            return 0
        wanted = ReservationRequested(
            reservation=request.start,
            machine=spec.name,
            target=self._host.name,
            profiles=tuple(vgpu.profile for vgpu in spec.vgpus),
            framebuffer_bytes=tuple(vgpu.framebuffer_bytes for vgpu in spec.vgpus),
            placement_policy=spec.placement_policy,
            device_group=spec.device_group,
        )
        waiting: asyncio.Future[ReservationGranted | ReservationRefused]
        waiting = asyncio.get_running_loop().create_future()
        self._reservations[request.start] = waiting
        try:
            await self._append(writer, wanted)
            async with asyncio.timeout(RESERVATION_S_MAX):
                answer = await waiting
        except TimeoutError as error:
            raise DeadlineError(
                f"the GPU tracker did not answer within {RESERVATION_S_MAX:g} s",
                hint="does the service gpu_state_tracker run?",
            ) from error
        finally:
            del self._reservations[request.start]
        if isinstance(answer, ReservationRefused):
            raise RefusedError(f"no vGPU: {answer.message}", hint="see: godwit gpus")
        return answer.expires_wall_ns

    async def _register(self, name: str) -> reg.RegisterView:
        """What it holds. Raises ``RegisterUnclearError``: nothing is refused because of that."""
        try:
            return await self._host.registers.read(name)
        except UnreachableError as error:
            raise RegisterUnclearError(error.message, hint=error.hint) from error

    async def _own(self, record: reg.RegisterRecord, expected_sequence: int) -> None:
        """Write the register. Raises ``ConflictError``, ``RegisterUnclearError``."""
        for _ in range(CAS_TRIES_MAX):
            settled = await self._host.registers.compare_and_set(record, expected_sequence)
            if isinstance(settled, CasUnclear):
                await asyncio.sleep(CAS_PACE_S)
            elif settled.won:
                return
            else:
                raise ConflictError(
                    f"machine {record.machine} was changed by somebody else: "
                    f"its register holds {settled.standing.record}"
                )
        raise RegisterUnclearError(f"the register of machine {record.machine} does not answer")

    async def _disown(self, name: str) -> None:
        view = await self._register(name)
        if view.record is not None and reg.may_run(view.record, self._host.name):
            await self._own(reg.stopped(view.record), view.sequence)

    async def _stop(self, name: str, stop: str) -> int:
        """Return the epoch in which the machine was owned last.

        The VMM ends last: until the register says that the machine is stopped, its being here is
        what tells a service that has restarted in between from one that never had it.
        """
        view, vmm = await self._let_go(name)
        record = view.record
        if record is None or record.stop != stop:
            record = await self._give_up(name, stop, view, vmm)
        if vmm is not None:
            await _end(vmm)
        return record.epoch

    async def _give_up(
        self, name: str, stop: str, view: reg.RegisterView, vmm: Vmm | None
    ) -> reg.RegisterRecord:
        """Let the machine hold still and write that it is stopped. While it is not known whether
        that was written it stays still: whoever wanted it stopped can ask again. If somebody else
        wrote, and it is this host's all the same, it goes on.
        """
        if view.record is None or not reg.may_run(view.record, self._host.name):
            raise NotFoundError(f"machine {name} is not on host {self._host.name}")
        if self._is_moving(name):
            raise ConflictError(
                f"machine {name} is being migrated", hint="cancel the migration first"
            )
        if vmm is not None:
            await _hold_still(vmm)
        elif name not in await self._host.hypervisor.find_dead():
            raise InDoubtError(
                f"the register names {self._host.name}, but machine {name} was not lost there",
                hint="perhaps the register has lost a write; look where else it runs",
            )
        record = reg.stopped(view.record, stop)
        try:
            await self._own(record, view.sequence)
        except ConflictError:
            if vmm is not None:
                await self._go_on(name, vmm)
            raise
        return record

    async def _go_on(self, name: str, vmm: Vmm) -> None:
        """Run again what was to be stopped, if the register still names this host.

        Raises ``RegisterUnclearError``.
        """
        record = (await self._register(name)).record
        if record is None or not reg.may_run(record, self._host.name):
            return
        try:
            await vmm.resume(record.epoch)
        except GodwitError as error:
            _log.warning("machine_not_resumed", machine=name, error=error.message)

    async def _is_answered(self, name: str, kind: str, request: str) -> bool:
        """Whether the log has an event that answers the request."""
        answers = {
            "start": (mev.MachineStarted, mev.MachineStartRefused),
            "stop": (mev.MachineStopped, mev.MachineStopRefused),
        }[kind]
        async for stored in self._host.log.read(Scope.of_machine(name).filters()):
            event = codec.decode(stored.data).event
            if isinstance(event, answers) and getattr(event, kind) == request:
                return True
        return False

    async def _writer(self, name: str) -> LaneWriter:
        scope = Scope.of_machine(checked_name(name, "machine"))
        position = await position_in_log(self._host.log, Lane.SOURCE, self._host.name, scope)
        return LaneWriter(self._host.clock, Lane.SOURCE, self._host.name, scope, position)

    async def _append(self, writer: LaneWriter, event: Event) -> None:
        """Append to the machine's lane. What a former life of this service sent may still be on its
        way to the same place: one of the two is stored there, and ours goes to the next if it must.
        """
        for _ in range(ATTEMPTS_MAX):
            sealed = writer.seal(event)
            await sealed.append_to(self._host.log, message_id=writer.place)
            if await writer.find_place(self._host.log) == stored_hash(sealed.data):
                return
        raise ConflictError(f"{sealed.subject} changes all the time")


def _checked(spec: MachineSpec, catalogue: Catalogue) -> MachineSpec:
    """Raise ``InvalidInputError`` for a specification that no host can take."""
    checked_name(spec.name, "machine")
    for vgpu in spec.vgpus:
        offered_bytes = catalogue.profile(vgpu.profile).framebuffer_bytes
        if vgpu.framebuffer_bytes != offered_bytes:
            raise InvalidInputError(
                f"profile {vgpu.profile} has {offered_bytes} bytes, not {vgpu.framebuffer_bytes}"
            )
    return spec.checked()


async def _done(work: Callable[[], Awaitable[None]]) -> None:
    """While the log is away or full, again; meanwhile nothing else is done to the machine, so that
    what was asked for later comes later.
    """
    await patiently(work, patience_s=DECISION_S_MAX)


async def _end(vmm: Vmm) -> None:
    """A large one takes longer to end than anybody waits: what it leaves is found dead later."""
    try:
        await vmm.stop()
    except GodwitError as error:
        _log.warning("vmm_not_ended_yet", machine=vmm.name, error=error.message)


async def is_failed(vmm: Vmm) -> str:
    """Why a machine does not run, or nothing."""
    try:
        status = await vmm.status()
    except UnreachableError as error:
        return error.message
    except DeadlineError:
        return ""  # busy in a long step; it will answer another time
    return status.failure if status.state is VmmState.FAILED else ""


async def _hold_still(vmm: Vmm) -> None:
    """Pause a machine that is to be stopped; end one that cannot be paused.

    Raises ``ConflictError`` if it is still arriving.
    """
    try:
        state = (await vmm.status()).state
        if state in (VmmState.GATED, VmmState.LOADED):
            raise ConflictError(f"machine {vmm.name} does not run here yet", hint="try again")
        if state is VmmState.RUNNING:
            await vmm.pause()
    except (DeadlineError, UnreachableError):
        await vmm.stop()
