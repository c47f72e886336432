"""One migration to this host: the shell around the destination's core.

Carries out effects on the gated VMM, the data plane, the direct link, the register and the log, and
tells the core what came of them. Decides nothing.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
import structlog

from godwit.content.shelf import Shelf
from godwit.content.store import ContentStore
from godwit.host.context import HostContext
from godwit.host.facts import FactWriter
from godwit.host.freeing import freed
from godwit.host.peer_clock import answer
from godwit.host.side import Side, failed, left, nothing, unclear
from godwit.hypervisor.port import Incoming, Vmm, VmmState
from godwit.runtime.cores import usable_cores
from godwit.transfer.control import ControlLink
from godwit.transfer.port import Acceptor, BulkSession, ByteReader, ByteWriter
from godwit_protocol import link
from godwit_protocol import register as reg
from godwit_protocol.bulk import CONNECTIONS_MAX, FIRST_ROUND
from godwit_protocol.errors import (
    ConflictError,
    CorruptError,
    DeadlineError,
    GodwitError,
    RemoteProtocolError,
    UnreachableError,
)
from godwit_protocol.events.migration import AbortReason, Verify
from godwit_protocol.framing import TOKEN_BYTES, session_of
from godwit_protocol.machine import MachineSpec
from godwit_protocol.roles import destination
from godwit_protocol.roles import effects as fx
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.destination import DestinationState
from godwit_protocol.roles.destination_state import MAY_BE_ORDERED, Phase
from godwit_protocol.roles.effects import Address, Effect, Service

STAGE_S_MAX: Final = 30.0
"""How long the last round may still be on its way once the source said that all is sent."""
LEAVING_NS_MAX: Final = 5_000_000_000
LEAVING_LOOK_S: Final = 0.05
ALIVE_NS: Final = 5_000_000
"""How long a VMM that has answered counts as alive: a stun would wait for another answer."""

_log = structlog.get_logger(__name__)

_LOADED: Final = inp.ImageLoaded(pages=0, received_bytes=0, received_ns=0, staged_ns=0)
"""What a rehearsal takes for it."""


class Arrival(Side[DestinationState]):
    """One migration to this host."""

    def __init__(
        self,
        host: HostContext,
        migration: str,
        spec: MachineSpec,
        facts: FactWriter,
        listener: Acceptor,
        source: str,
        content: ContentStore,
    ) -> None:
        own = Address(host.name, Service.DESTINATION_HOST)
        super().__init__(host, spec.name, facts, destination, own, source)
        self.migration = migration
        self._spec = spec
        self._listener = listener
        self._content = content
        self._shelf: Shelf | None = None
        """What this host holds already, open until the first round is applied."""
        self._holds_content = False
        self._compressions = host.config.compression.methods
        self._link_session = session_of(migration)
        self._preparing: asyncio.Task[None] | None = None
        self._vmm: Vmm | None = None
        self._incoming: Incoming | None = None
        self._session: BulkSession | None = None
        self._rounds: asyncio.Task[None] | None = None
        self._control: ControlLink | None = None
        self._hello: link.Hello | None = None
        self._stage: link.Stage | None = None
        self._owned_ns = 0
        self._has_claimed = False
        self._alive_until_ns = 0
        """Until then the VMM need not be asked whether it lives."""

    _name = "destination"

    def _may_be_ordered(self, state: DestinationState) -> bool:
        return state.phase in MAY_BE_ORDERED

    def _is_peer_off(self, state: DestinationState) -> bool:
        return state.fenced

    async def _let_go(self) -> None:
        self._listener.forget(self._link_session)
        if self._runner.state is not None and self._runner.state.phase is Phase.ACTIVE:
            await self._told_first()
        try:
            await self._close_link()
        except DeadlineError as error:  # one thread that hangs is no reason to end the service
            _log.error("memory_in_use", error=error.message)
        self._vmm = None  # hangs up: this object is in cycles, and lives on for a while

    def _perform(self, effect: Effect) -> None:
        match effect:
            case fx.Append():
                self._append(effect)
            case fx.AwaitFlush():
                self._facts.await_flush()
            case fx.Say():
                self._say(effect.message)
            case fx.PrepareMachine():
                self._preparing = self._runner.start(self._prepare(), failed)
            case fx.Populate():
                self._runner.start(self._populate(), failed)
            case fx.LoadImage():
                self._runner.start(self._load(effect.verify), _bad_image)
            case fx.CompareAndSet():
                self._runner.start(self._compare_and_set(effect), unclear)
            case fx.ReadRegister():
                self._runner.start(self._read_register(), nothing)
            case fx.FencePeer():
                self._fence.ask()
            case fx.OpenGate():
                self._runner.start(self._open_gate(effect.epoch), failed)
            case fx.FreeMemory():
                self._runner.start(self._free(), left)
            case fx.CloseLink():
                self._runner.start(self._close_link(), nothing)
            case _:
                pass  # Finish is the runner's

    def _append(self, effect: fx.Append) -> None:
        state = self._runner.state
        record = state.register.record if state else None
        self._facts.writer.epoch = record.epoch if record else 0
        self._facts.append(effect)

    def _say(self, message: link.LinkMessage) -> None:
        if isinstance(message, link.Welcome):
            message = msgspec.structs.replace(
                message,
                holds_content=self._holds_content,
                compressions=tuple(method.value for method in self._compressions),
                cores=usable_cores(),
            )
        if self._control is not None:
            self._control.say(self._facts.telling(message))
        if isinstance(message, link.Staged):
            self._rehearse(inp.PeerGo(heard_ns=0))

    def _rehearse_stun(self) -> None:
        """The source's machine still runs: what is done now is not in the stun."""
        state = self._runner.state
        assert state is not None
        stage = inp.PeerStage(verify=state.verify)
        self._runner.rehearse(self._facts.rehearse, stage, _LOADED, inp.PeerGo(heard_ns=0))

    # Before the source comes.

    async def _prepare(self) -> inp.Input:
        started_ns = self._host.clock.monotonic_ns()
        self._vmm = await self._create()
        self._incoming = await self._vmm.incoming()
        token = self._host.clock.secret(TOKEN_BYTES)
        self._listener.expect(self._link_session, token, self._take_control)
        return inp.Prepared(
            address=self._host.config.link_host,
            port=self._listener.port,
            token=token,
            create_ns=self._host.clock.monotonic_ns() - started_ns,
        )

    async def _create(self) -> Vmm:
        """Create the VMM; one that has left this host just now may still be freeing its memory."""
        deadline_ns = self._host.clock.monotonic_ns() + LEAVING_NS_MAX
        while True:
            try:
                return await self._host.hypervisor.create(self._spec)
            except ConflictError:
                view = await self._host.registers.read(self.machine)
                is_ours = reg.may_run(view.record, self._host.name)
                if is_ours or self._host.clock.monotonic_ns() > deadline_ns:
                    raise
            await asyncio.sleep(LEAVING_LOOK_S)

    def _take_control(self, reader: ByteReader, writer: ByteWriter) -> None:
        self._control = ControlLink(reader, writer, self._heard, self._lost)

    # The direct link.

    def _heard(self, message: link.AnyLinkMessage) -> None:
        heard_ns = self._host.clock.monotonic_ns()
        self._facts.causes.by_link(message)
        match message:
            case link.Hello():
                self._take_hello(message)
            case link.Stage():
                self._stage = self._stage or message  # a second one is the role's to refuse
                self._runner.tell(inp.PeerStage(verify=message.verify))
            case link.Go():
                self._runner.tell(inp.PeerGo(heard_ns=heard_ns))
            case link.Abort():
                self._runner.tell(inp.PeerAbort(reason=message.reason))
            case link.Runs():
                self._runner.tell(inp.PeerRuns())
            case link.Ping():
                self._take_ping(message, heard_ns)
            case _:
                self._lost(f"the source said {type(message).__name__}, which is a destination's")

    def _take_ping(self, ping: link.Ping, heard_ns: int) -> None:
        if ping.asked_ns and self._control is not None:
            self._control.say(answer(ping, heard_ns, self._host.clock.monotonic_ns))
        if ping.stun_near:
            self._rehearse_stun()

    def _take_hello(self, hello: link.Hello) -> None:
        fault = self._hello_fault(hello)
        if fault:
            return self._lost(fault)
        self._hello = hello
        return self._runner.tell(inp.PeerHello(register_epoch=hello.epoch))

    def _hello_fault(self, hello: link.Hello) -> str:
        if hello.version != link.LINK_VERSION:
            return f"the source speaks link version {hello.version}, not {link.LINK_VERSION}"
        if hello.migration != self.migration or hello.regions != self._spec.regions():
            return "the source's machine is not the one that was prepared"
        if len(hello.extents) != len(hello.regions):
            return "the source's extents are not those of its regions"
        if not 1 <= hello.connections <= CONNECTIONS_MAX:
            return f"the source wants {hello.connections} bulk connections"
        return ""

    def _lost(self, reason: str) -> None:
        self._runner.tell(inp.LinkLost(message=reason))

    async def _close_link(self) -> None:
        """Idempotent. What was said is flushed first."""
        control, self._control = self._control, None
        if control is not None:
            await control.close()
        if self._rounds is not None:
            self._rounds.cancel()
        # What broke it off was raised where pages were received, and would keep them mapped.
        self._session = None
        try:
            if self._incoming is not None:
                await self._incoming.close()
                self._incoming = None  # if it is in use still, whoever frees the memory tries again
        finally:
            await self._close_shelf()

    async def _close_shelf(self) -> None:
        """Idempotent. Once the first round is applied, or nothing is received any more."""
        if self._shelf is not None:
            await self._shelf.close()
            self._shelf = None  # not before: whoever closes it for the first round may be cancelled

    # Memory.

    async def _populate(self) -> inp.Input:
        incoming = self._open_incoming()
        assert self._hello is not None
        started_ns = self._host.clock.monotonic_ns()
        self._shelf = shelf = self._content.shelf_for(self._spec)
        await incoming.populate(self._hello.extents)
        populate_ns = self._host.clock.monotonic_ns() - started_ns
        if shelf is not None:
            self._holds_content = await shelf.stocked(link.extents_bytes(self._hello.extents))
        self._session = incoming.receive(
            self._link_session,
            self._hello.connections,
            digested=self._is_digested(),
            compressions=self._compressions,
            content=shelf,
        )
        self._listener.admit_bulk(self._session)
        self._rounds = asyncio.create_task(self._watch_rounds(self._session))
        return inp.Populated(populate_ns=populate_ns)

    async def _watch_rounds(self, session: BulkSession) -> None:
        number = FIRST_ROUND
        try:
            while True:
                totals = await session.round_applied(number)
                received = inp.RoundReceived(
                    round=number, pages=totals.pages, received_bytes=totals.payload_bytes
                )
                self._runner.tell(received)
                if number == FIRST_ROUND:
                    await self._close_shelf()
                number += 1
        except (RemoteProtocolError, CorruptError) as error:
            self._runner.tell(_bad_image(error))
        except GodwitError as error:
            self._lost(error.message)

    def _is_digested(self) -> bool:
        state = self._runner.state
        assert state is not None
        return state.verify is not Verify.OFF

    async def _load(self, verify: Verify) -> inp.Input:
        stage, session, vmm = self._stage, self._session, self._vmm
        assert stage is not None
        assert session is not None
        assert vmm is not None
        if stage.round < FIRST_ROUND:
            raise RemoteProtocolError(f"the source has staged round {stage.round}")
        async with asyncio.timeout(STAGE_S_MAX):
            totals = await session.round_applied(stage.round)
        session.seal(stage.round)
        received_ns = self._host.clock.monotonic_ns()
        if stage.sent_digest != session.applied_digest():
            raise CorruptError("the digest of what was applied is not that of what was sent")
        digests: dict[str, bytes] = {}
        if verify is Verify.FULL:
            digests = await self._open_incoming().digests()
            _compare(stage.digests, digests)
        loaded = inp.ImageLoaded(
            pages=totals.pages,
            received_bytes=totals.payload_bytes,
            received_ns=received_ns,
            staged_ns=received_ns,
            digests=digests,
        )
        self._rehearse(loaded)
        await vmm.load(stage.checkpoint)
        staged_ns = self._host.clock.monotonic_ns()
        self._alive_until_ns = staged_ns + ALIVE_NS
        return msgspec.structs.replace(loaded, staged_ns=staged_ns)

    def _open_incoming(self) -> Incoming:
        if self._incoming is None:
            raise UnreachableError("the link is closed")
        return self._incoming

    async def _free(self) -> inp.Input:
        """End the VMM, also one that is just being created."""
        if self._preparing is not None:
            self._preparing.cancel()
            await asyncio.wait({self._preparing})
        await freed(self._end_prepared)
        return inp.MemoryFreed()

    async def _end_prepared(self) -> None:
        if self._incoming is not None:
            await self._incoming.close()
        vmm = self._vmm or await self._gated_vmm()
        if vmm is not None:
            await vmm.stop()

    async def _gated_vmm(self) -> Vmm | None:
        """What a former life of this service created. One that runs or ran here is not ours."""
        vmm = await self._host.hypervisor.find(self.machine)
        if vmm is not None and (await vmm.status()).state in (VmmState.GATED, VmmState.LOADED):
            return vmm
        return None

    async def _find_vmm(self) -> Vmm | None:
        """The VMM, also one that a former life of this service created."""
        if self._vmm is None:
            self._vmm = await self._host.hypervisor.find(self.machine)
        return self._vmm

    # The register and the machine.

    async def _compare_and_set(self, effect: fx.CompareAndSet) -> inp.Input:
        """The first attempt is made only if the VMM lives: once claimed, no one else can run it."""
        if not self._has_claimed and await self._is_vmm_dead():
            return inp.OperationFailed(message=f"the VMM of {self.machine} is dead")
        self._has_claimed = True
        settled = await self._set_register(effect)
        self._owned_ns = self._host.clock.monotonic_ns()
        return settled

    async def _is_vmm_dead(self) -> bool:
        """Asked of the VMM itself: while a process dies, its socket still takes connections."""
        if self._host.clock.monotonic_ns() < self._alive_until_ns:
            return False
        vmm = await self._find_vmm()
        if vmm is None:
            return True
        try:
            await vmm.status()
        except UnreachableError:
            return True
        except DeadlineError:
            return False
        return False

    async def _open_gate(self, epoch: int) -> inp.Input:
        """Until the VMM answers or is dead: one that is silent may still open its gate."""
        vmm = await self._find_vmm()
        if vmm is None:
            raise UnreachableError(f"the VMM of {self.machine} is gone")
        may_be_open = self._owned_ns == 0  # a former life of this service may have got so far
        owned_ns = self._owned_ns or self._host.clock.monotonic_ns()
        while True:
            try:
                if may_be_open and (await vmm.status()).state is VmmState.RUNNING:
                    first_step_ns = self._host.clock.monotonic_ns()
                else:
                    first_step_ns = await vmm.open_gate(epoch)
                return inp.GateOpened(owned_ns=owned_ns, first_step_ns=first_step_ns)
            except DeadlineError as error:
                _log.warning("vmm_is_silent", error=error.message)
                may_be_open = True


def _compare(expected: dict[str, bytes], found: dict[str, bytes]) -> None:
    """Raise ``RemoteProtocolError`` naming the regions that differ."""
    different = [name for name, digest in found.items() if expected.get(name) != digest]
    if different:
        raise RemoteProtocolError(f"regions differ from the source's: {', '.join(different)}")


def _bad_image(error: GodwitError) -> inp.Input:
    return inp.ImageBad(reason=AbortReason.VERIFICATION_FAILED, message=error.message)
