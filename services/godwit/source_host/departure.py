"""One migration away from this host: the shell around the source's core.

Carries out effects on the VMM, the data plane, the direct link, the register and the log, and tells
the core what came of them. Decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Final, TypeVar

import msgspec
import structlog

from godwit.host.context import HostContext
from godwit.host.facts import FactWriter, acknowledged
from godwit.host.freeing import freed
from godwit.host.peer_clock import PeerClock
from godwit.host.side import Side, failed, left, nothing, unclear
from godwit.hypervisor.port import (
    Checkpoint,
    LinkTarget,
    Outgoing,
    SentPages,
    Vmm,
    VmmLostError,
    VmmState,
)
from godwit.runtime.cores import usable_cores
from godwit.runtime.journal import JournalFullError
from godwit.transfer.control import ControlLink
from godwit.transfer.pacing import Pace
from godwit_protocol import link, subjects
from godwit_protocol.compression import agreed
from godwit_protocol.connections import first_number, opened
from godwit_protocol.errors import (
    AbortedError,
    DeadlineError,
    GodwitError,
    LocalProtocolError,
    RefusedError,
    UnreachableError,
)
from godwit_protocol.events import migration as ev
from godwit_protocol.framing import session_of
from godwit_protocol.machine import MachineSpec
from godwit_protocol.roles import effects as fx
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles import source
from godwit_protocol.roles.effects import Address, Durability, Effect, Service
from godwit_protocol.roles.source_state import (
    MAY_BE_ORDERED,
    Phase,
    SourceState,
    next_deadline_ns,
)

from .round_figures import figures_of

INTENT_S_MAX: Final = 3.0
PROGRESS_S: Final = 0.2
REPLIES_S_MAX: Final = 2.0
REPLIES_PACE_S: Final = 0.02
LAST_WORD_S: Final = 0.5
"""How long a broken bulk connection waits for the reason, which comes by the control connection."""

_HAS_LEFT: Final = frozenset({Phase.RELEASING, Phase.RELEASED})
"""Where the machine runs elsewhere, so that nothing here waits for its memory."""

_log = structlog.get_logger(__name__)

_A_STUN: Final = (
    inp.Paused(stopped_ns=0, checkpoint_bytes=0),
    inp.FinalSent(pages=0, sent_bytes=0, scan_ns=0, sent_ns=0),
)
"""What comes once the intent is acknowledged; rehearsed while it is not."""

T = TypeVar("T")


class _Core:
    """The source's core, as ``RoleRunner`` wants it."""

    step = staticmethod(source.step)
    next_deadline_ns = staticmethod(next_deadline_ns)


class Departure(Side[SourceState]):
    """One migration away from this host."""

    def __init__(
        self,
        host: HostContext,
        migration: str,
        machine: str,
        epoch: int,
        facts: FactWriter,
        destination: str,
        pace: Pace,
    ) -> None:
        """``epoch``: the one under which the machine ran here when it was to leave. ``pace``: its
        own, of those that leave this host.
        """
        own = Address(host.name, Service.SOURCE_HOST)
        super().__init__(host, machine, facts, _Core(), own, destination)
        self.migration = migration
        self._epoch = epoch
        self._pace = pace
        self._found: Vmm | None = None
        self._control: ControlLink | None = None
        self._outgoing: Outgoing | None = None
        self._checkpoint = Checkpoint(b"", 0)
        self._digests: dict[str, bytes] = {}
        self._welcome: asyncio.Future[link.Welcome] = asyncio.get_running_loop().create_future()
        self._applied: dict[int, asyncio.Future[link.RoundApplied]] = {}
        self._peer_clock = PeerClock(host.clock.monotonic_ns, self._say)
        self._over = asyncio.Event()
        """Nothing more comes over the link."""
        self._broken: UnreachableError | None = None
        """Why nothing more comes over the link; None while something may."""

    _name = "source"

    def _may_be_ordered(self, state: SourceState) -> bool:
        return state.phase in MAY_BE_ORDERED

    def _is_peer_off(self, state: SourceState) -> bool:
        return state.peer_runs_nothing

    async def _let_go(self) -> None:
        await self._close_link()
        self._found = None  # hangs up: this object is in cycles, and lives on for a while

    def _perform(self, effect: Effect) -> None:
        match effect:
            case fx.Append():
                self._append(effect)
            case fx.AwaitFlush():
                self._facts.await_flush()
            case fx.Say():
                self._say(effect.message)
            case fx.OpenLink():
                self._runner.start(self._open_link(effect), _not_moved)
            case fx.SendRound():
                self._runner.start(self._send_round(effect), _not_moved)
            case fx.SetBandwidth():
                self._pace.set_cap(effect.bytes_per_second)
            case fx.PauseMachine():
                self._runner.start(self._pause(), failed)
            case fx.SendFinal():
                self._runner.start(self._send_final(effect), _link_lost)
            case fx.SayStage():
                self._say_stage(effect)
            case fx.ResumeMachine():
                self._runner.start(self._resume(effect.epoch), failed)
            case fx.FreeMemory():
                self._runner.start(self._free(), left)
            case fx.CloseLink():
                self._runner.start(self._close_link(), _link_lost)
            case fx.CompareAndSet():
                self._runner.start(self._set_register(effect), unclear)
            case fx.ReadRegister():
                self._runner.start(self._read_register(), nothing)
            case fx.FencePeer():
                self._fence.ask()
            case _:
                pass  # Finish is the runner's

    def _append(self, effect: fx.Append) -> None:
        self._facts.writer.epoch = self._runner.state.epoch if self._runner.state else 0
        try:
            stored = self._facts.append(effect)
        except JournalFullError as error:
            return self._runner.tell(inp.JournalFull(message=error.message))
        if stored is not None and effect.durability is Durability.LOGGED:
            event_type = effect.event.TYPE

            def failed(error: GodwitError) -> inp.Input:
                return inp.AppendFailed(type=event_type, message=error.message)

            self._runner.start(self._await_log(stored, event_type), failed)
            self._peer_clock.stop()
            self._say(link.Ping(stun_near=True))
            self._rehearse(inp.Appended(type=event_type), *_A_STUN)
        return None

    async def _await_log(self, stored: asyncio.Future[bool], event_type: str) -> inp.Input:
        await acknowledged(stored, INTENT_S_MAX)
        return inp.Appended(type=event_type)

    # The direct link.

    def _say(self, message: link.LinkMessage) -> None:
        if self._control is not None:
            self._control.say(self._facts.telling(message))

    def _say_stage(self, effect: fx.SayStage) -> None:
        self._say(
            link.Stage(
                round=effect.round,
                checkpoint=self._checkpoint.data,
                verify=effect.verify,
                digests=self._digests,
                sent_digest=self._outgoing.sent_digest() if self._outgoing else b"",
            )
        )
        self._rehearse(inp.PeerStaged(heard_ns=0))

    async def _open_link(self, effect: fx.OpenLink) -> inp.Input:
        started_ns = self._host.clock.monotonic_ns()
        with _of_vmm():
            vmm = await self._vmm()
            spec = (await vmm.status()).spec
        given = self._host.config.bulk_connections
        target = LinkTarget(
            address=effect.address,
            port=effect.port,
            session=session_of(self.migration),
            token=effect.token,
            connections=given or opened(usable_cores()),
            digested=self._is_digested(),
            omit_zeros=self._host.config.omit_zeros,
            omit_rewritten=self._host.config.omit_rewritten,
            pace=self._pace,
        )
        reader, writer = await self._host.dial(
            target.address, target.port, target.session, target.token
        )
        self._control = ControlLink(reader, writer, self._heard, self._lost)
        with _of_vmm():
            self._outgoing = await vmm.outgoing()
            extents = await self._outgoing.held()
        self._say(self._hello(spec, extents, target.connections))
        welcome = await self._welcome  # as long as it populates memory, and the link stands
        self._pace.join()
        compressions = agreed(self._host.config.compression, welcome.compressions)
        number = first_number(
            *(target.connections, usable_cores(), welcome.cores, self._pace.bytes_per_second),
            may_compress=bool(compressions),
        )
        target = replace(
            target,
            offer_content=welcome.holds_content and self._host.config.content_store,
            compressions=compressions,
            spread=0 if given else number,
        )
        await self._outgoing.connect(target)
        _log.info("link_up", took_ms=(self._host.clock.monotonic_ns() - started_ns) / 1e6)
        return inp.LinkUp(
            connections=target.connections,
            resident_bytes=link.extents_bytes(extents),
            populate_ns=welcome.populate_ns,
        )

    def _is_digested(self) -> bool:
        state = self._runner.state
        assert state is not None
        return state.verify is not ev.Verify.OFF

    def _hello(self, spec: MachineSpec, extents: tuple[bytes, ...], connections: int) -> link.Hello:
        state = self._runner.state
        assert state is not None
        return link.Hello(
            version=link.LINK_VERSION,
            migration=self.migration,
            machine=self.machine,
            epoch=state.epoch,
            regions=spec.regions(),
            extents=extents,
            connections=connections,
        )

    def _heard(self, message: link.AnyLinkMessage) -> None:
        heard_ns = self._host.clock.monotonic_ns()
        self._facts.causes.by_link(message)
        match message:
            case link.Welcome():
                self._peer_clock.ask()
                _settle(self._welcome, message)
            case link.RoundApplied():
                self._peer_clock.ask()
                _settle(self._applied_future(message.round), message)
            case link.Pong():
                self._peer_clock.take(message, heard_ns)
            case link.Staged():
                self._runner.tell(inp.PeerStaged(heard_ns=heard_ns))
            case link.Active():
                self._runner.tell(inp.PeerActive(epoch=message.epoch))
            case link.Refuse():
                refused = inp.PeerRefused(reason=message.reason, message=message.message)
                self._runner.tell(refused)
                self._break_waits(message.message)
            case link.Quarantined():
                self._runner.tell(inp.PeerQuarantined())
            case _:
                self._lost(f"the destination said {type(message).__name__}, which is a source's")

    def _lost(self, reason: str) -> None:
        self._break_waits(reason)
        self._runner.tell(inp.LinkLost(message=reason))

    def _break_waits(self, reason: str) -> None:
        if self._outgoing is not None:
            self._outgoing.abort()
        self._broken = UnreachableError(reason)
        self._over.set()
        _break(self._welcome, self._broken)
        for waiting in self._applied.values():
            _break(waiting, self._broken)

    async def _close_link(self) -> None:
        """Idempotent. What was said is flushed first."""
        self._break_waits("this side closed the link")
        self._pace.lift()
        state = self._runner.state
        if state is not None and state.phase in _HAS_LEFT:
            await self._told_first()
        control, self._control = self._control, None
        outgoing, self._outgoing = self._outgoing, None
        if control is not None:
            await control.close()
        if outgoing is not None:
            await outgoing.close()

    # Memory.

    async def _send_round(self, effect: fx.SendRound) -> inp.Input:
        outgoing, number = self._open_outgoing(), effect.round
        with _of_vmm():
            await outgoing.slow(effect.slow_percent)
        started_ns = self._host.clock.monotonic_ns()
        reporting = asyncio.create_task(self._report(number, outgoing))
        try:
            waits = effect.wait_bytes_max if self._host.config.let_hot_wait else 0
            sent = await self._sent(outgoing, number, wait_bytes_max=waits)
            await self._applied_future(number)
        finally:
            reporting.cancel()
        duration_ns = self._host.clock.monotonic_ns() - started_ns
        with _of_vmm():
            left = await outgoing.dirty()
        figures = figures_of(number, sent, left, self._pace.held(), duration_ns)
        return inp.RoundDone(figures=figures)

    async def _send_final(self, effect: fx.SendFinal) -> inp.Input:
        outgoing = self._open_outgoing()
        self._pace.lift()
        sent = await self._sent(outgoing, effect.round, in_stun=True)
        digest_ns = 0
        if effect.verify is ev.Verify.FULL:
            started_ns = self._host.clock.monotonic_ns()
            self._digests = await outgoing.digests()
            digest_ns = self._host.clock.monotonic_ns() - started_ns
        return inp.FinalSent(
            pages=sent.pages,
            sent_bytes=sent.sent_bytes,
            scan_ns=sent.scan_ns,
            sent_ns=self._host.clock.monotonic_ns(),
            digest_ns=digest_ns,
            clock_offset_ns=self._peer_clock.offset_ns(),
            clock_error_ns=self._peer_clock.error_ns(),
        )

    async def _sent(
        self, outgoing: Outgoing, number: int, *, wait_bytes_max: int = 0, in_stun: bool = False
    ) -> SentPages:
        try:
            return await outgoing.send_round(number, wait_bytes_max=wait_bytes_max, in_stun=in_stun)
        except VmmLostError:
            raise
        except UnreachableError:
            # A destination that found a fault breaks the connections off, and says why on this one.
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORD_S):
                    await self._over.wait()
            raise

    def _open_outgoing(self) -> Outgoing:
        if self._outgoing is None:
            raise UnreachableError("the link is closed")
        return self._outgoing

    def _applied_future(self, number: int) -> asyncio.Future[link.RoundApplied]:
        if number not in self._applied:
            self._applied[number] = asyncio.get_running_loop().create_future()
            if self._broken is not None:
                _break(self._applied[number], self._broken)
        return self._applied[number]

    async def _report(self, number: int, outgoing: Outgoing) -> None:
        """Tell whoever watches how far the round is. Nobody relies on it."""
        subject = subjects.telemetry("migration", self.migration, "progress")
        started_ns = self._host.clock.monotonic_ns()
        while True:
            await asyncio.sleep(PROGRESS_S)
            sent, total = outgoing.round_progress()
            elapsed_s = (self._host.clock.monotonic_ns() - started_ns) / 1e9
            progress = {
                "round": number,
                "sent_bytes": sent,
                "total_bytes": total,
                "bytes_per_second": sent / elapsed_s,
                "remaining_bytes": max(total - sent, 0),
            }
            await self._host.log.announce(subject, msgspec.msgpack.encode(progress))

    # The machine and the register.

    async def _vmm(self) -> Vmm:
        if self._found is None:
            self._found = await self._host.hypervisor.find(self.machine)
        if self._found is None:
            raise UnreachableError(f"no VMM of machine {self.machine} is alive on this host")
        return self._found

    async def _pause(self) -> inp.Input:
        self._checkpoint = await self._paused(await self._vmm())
        return inp.Paused(
            stopped_ns=self._checkpoint.stopped_ns, checkpoint_bytes=len(self._checkpoint.data)
        )

    async def _paused(self, vmm: Vmm) -> Checkpoint:
        """One whose replies are more than a checkpoint holds runs on until the log has them."""
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + REPLIES_S_MAX
        while True:
            try:
                return await vmm.pause()
            except RefusedError:
                if loop.time() > give_up_s:
                    raise
            await asyncio.sleep(REPLIES_PACE_S)

    async def _resume(self, epoch: int) -> inp.Input:
        """Until the VMM answers or is dead: one that is silent may still do what it was asked."""
        vmm = await self._vmm()
        while True:
            try:
                if (await vmm.status()).state is VmmState.RUNNING:
                    # A former life of this service got so far, or had not got far.
                    return inp.Resumed(first_step_ns=self._host.clock.monotonic_ns())
                return inp.Resumed(first_step_ns=await vmm.resume(epoch))
            except DeadlineError as error:
                _log.warning("vmm_is_silent", error=error.message)

    async def _free(self) -> inp.Input:
        """End the VMM that the machine left, once it has said that it is that one.

        One that never ran or runs under a later epoch is none of ours: while this service was down,
        the machine may have come back, or be about to.
        """
        await self._told_first()
        await freed(self._end_left)
        return inp.MemoryFreed()

    async def _end_left(self) -> None:
        vmm = await self._host.hypervisor.find(self.machine)
        if vmm is not None and 0 < (await vmm.status()).epoch <= self._epoch:
            await vmm.stop()


def _settle(waiting: asyncio.Future[T], message: T) -> None:
    if not waiting.done():
        waiting.set_result(message)


def _break(waiting: asyncio.Future[T], error: GodwitError) -> None:
    if not waiting.done():
        waiting.set_exception(error)
        waiting.exception()  # nobody may be waiting, and that is no defect


@contextmanager
def _of_vmm() -> Iterator[None]:
    """What fails in it is of this host's VMM, unless sending was broken off meanwhile."""
    try:
        yield
    except AbortedError:
        raise
    except GodwitError as error:
        raise VmmLostError(error.message, hint=error.hint) from error


def _not_moved(error: GodwitError) -> inp.Input:
    """Of what goes on while the machine runs: what this host alone has to answer for, such as its
    VMM or a defect, must not be told of a destination that is well.
    """
    is_own = isinstance(error, (VmmLostError, RefusedError, LocalProtocolError))
    return failed(error) if is_own else _link_lost(error)


def _link_lost(error: GodwitError) -> inp.Input:
    return inp.LinkLost(message=error.message)
