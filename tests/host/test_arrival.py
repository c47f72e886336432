"""The destination's shell, on a host of which nothing is real: what it does, in which order, and
what it tells the core of what it came to.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from unittest.mock import ANY, AsyncMock, Mock, call

import msgspec
import pytest

from godwit.destination_host import arrival as module
from godwit.destination_host.arrival import Arrival
from godwit.hypervisor.port import VmmState, VmmStatus
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
from godwit_protocol.events import migration as ev
from godwit_protocol.machine import MachineSpec
from godwit_protocol.roles import destination
from godwit_protocol.roles import effects as fx
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.destination_state import Phase
from godwit_protocol.roles.effects import Durability
from orders import preparation

SPEC = MachineSpec(name="m", guest="godwit.guests.memhog:Memhog", ram_bytes=4096)
EPOCH = 3
HELLO = link.Hello(
    version=link.LINK_VERSION,
    migration="now",
    machine="m",
    epoch=EPOCH,
    regions=SPEC.regions(),
    extents=(b"",) * len(SPEC.regions()),
    connections=2,
)
STAGE = link.Stage(round=2, checkpoint=b"c", verify=ev.Verify.OFF, sent_digest=b"sent")
GONE = UnreachableError("the VMM is gone")
SILENT = DeadlineError("the VMM is silent")
CLAIM = fx.CompareAndSet(
    record=reg.moved(reg.started("m", "there", None), "here", "now"), expected_sequence=1
)


def standing(epoch: int) -> reg.RegisterView:
    value = reg.RegisterValue.STARTED
    return reg.RegisterView(
        reg.RegisterRecord(value=value, machine="m", owner="there", epoch=epoch), 1
    )


def status(state: VmmState = VmmState.LOADED) -> VmmStatus:
    return VmmStatus(SPEC, state, 0, pid=1, steps=0, failure="")


class Shell:
    """An arrival that has begun. ``heard`` is what its core was told."""

    def __init__(self, verify: ev.Verify = ev.Verify.OFF) -> None:
        self.order: list[str] = []
        self.said: list[link.LinkMessage] = []
        self.totals = Mock(pages=7, payload_bytes=8)
        self.session = Mock(
            round_applied=AsyncMock(return_value=self.totals),
            applied_digest=Mock(return_value=b"sent"),
        )
        self.shelf = Mock(close=self._noted("shelf closed"), stocked=AsyncMock(return_value=True))
        self.incoming = Mock(
            close=self._noted("memory closed"),
            populate=AsyncMock(),
            digests=AsyncMock(return_value={"ram": b"d"}),
            receive=Mock(return_value=self.session),
        )
        self.vmm = Mock(
            status=AsyncMock(return_value=status()),
            incoming=AsyncMock(return_value=self.incoming),
            stop=self._noted("stopped"),
            load=self._noted("loaded"),
            open_gate=AsyncMock(return_value=11),
        )
        self.host = Mock()
        self.host.name = "here"
        self.host.clock.monotonic_ns = time.monotonic_ns
        self.host.clock.secret = Mock(return_value=b"t")
        self.host.config = Mock(link_host="192.0.2.1", compression=Mock(methods=()))
        self.host.hypervisor.find = AsyncMock(return_value=self.vmm)
        self.host.hypervisor.create = AsyncMock(return_value=self.vmm)
        won = inp.CasSettled(won=True, standing=standing(EPOCH + 1))
        self.host.registers.compare_and_set = AsyncMock(return_value=won)
        self.facts = Mock(telling=lambda message: message, told=self._noted("told"))
        self.listener = Mock(port=9)
        self.content = Mock(shelf_for=Mock(return_value=self.shelf))
        self.arrival = Arrival(
            self.host, "now", SPEC, self.facts, self.listener, "there", self.content
        )
        ordered = msgspec.structs.replace(
            preparation(SPEC, "there", "here", register_epoch=EPOCH), verify=verify
        )
        self.arrival.begin(
            destination.begin(ordered, standing(EPOCH), migration="now", now_ns=0)[0]
        )
        self.heard: list[inp.Input] = []
        self.arrival._runner.tell = self._hear
        self.control = Mock(say=self.said.append, close=self._noted("control closed"))
        self.arrival._control = self.control

    def _hear(self, given: inp.Input) -> None:
        self.order.append(type(given).__name__)
        self.heard.append(given)

    def _noted(self, what: str) -> Callable[..., object]:
        async def note(*_: object) -> None:
            self.order.append(what)

        return note

    def has_memory(self) -> None:
        self.arrival._vmm, self.arrival._incoming = self.vmm, self.incoming

    def now(self, **changes: object) -> None:
        """The role's state is another one."""
        state = self.arrival._runner.state
        self.arrival.begin(msgspec.structs.replace(state, **changes))

    async def done(self, effect: fx.Effect) -> list[inp.Input]:
        """What comes of an effect."""
        self.arrival._perform(effect)
        while self.arrival._runner._tasks:
            await asyncio.wait(set(self.arrival._runner._tasks))
        return self.heard


@pytest.fixture
async def shell() -> Shell:
    return Shell()


# Facts, and what is said.


async def test_a_fact_is_of_the_epoch_that_the_register_shows(shell: Shell) -> None:
    written: list[int] = []
    shell.facts.append = lambda _: written.append(shell.facts.writer.epoch)
    fact = fx.Append(
        event=ev.ImageDiscarded(reason=ev.AbortReason.NONE), durability=Durability.LAGGING
    )
    await shell.done(fact)
    shell.now(register=standing(EPOCH + 1))
    await shell.done(fact)
    shell.now(register=reg.NO_REGISTER)
    await shell.done(fact)
    assert written == [EPOCH, EPOCH + 1, 0]


async def test_a_welcome_says_what_this_host_has(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: 6)
    shell.arrival._compressions = (Mock(value="lz4"),)
    shell.arrival._holds_content = True
    welcome = link.Welcome(version=1, populate_ns=5)
    await shell.done(fx.Say(message=welcome))
    assert shell.said == [
        link.Welcome(version=1, populate_ns=5, holds_content=True, compressions=("lz4",), cores=6)
    ]
    shell.arrival._control = None
    await shell.done(fx.Say(message=welcome))
    assert len(shell.said) == 1


async def test_what_the_source_says_is_told_and_is_what_a_fact_comes_of(shell: Shell) -> None:
    messages = [
        HELLO,
        STAGE,
        link.Go(),
        link.Abort(reason=ev.AbortReason.CANCELLED),
        link.Runs(),
        link.Ping(asked_ns=5),
        link.Ping(),
    ]
    for message in messages:
        shell.arrival._heard(message)
    kinds = [inp.PeerHello, inp.PeerStage, inp.PeerGo, inp.PeerAbort, inp.PeerRuns]
    assert [type(each) for each in shell.heard] == kinds
    assert shell.facts.causes.by_link.mock_calls == [call(message) for message in messages]
    (pong,) = shell.said
    assert isinstance(pong, link.Pong)
    assert pong.asked_ns == 5
    shell.arrival._control = None
    shell.arrival._heard(link.Ping(asked_ns=6))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": link.LINK_VERSION + 1}, "speaks link version"),
        ({"migration": "another"}, "not the one that was prepared"),
        ({"regions": SPEC.regions()[:0]}, "not the one that was prepared"),
        ({"extents": (b"",) * 9}, "not those of its regions"),
        ({"connections": 0}, "wants 0 bulk"),
        ({"connections": CONNECTIONS_MAX + 1}, "bulk connections"),
        ({"connections": 1}, ""),
        ({"connections": CONNECTIONS_MAX}, ""),
    ],
)
async def test_only_a_hello_of_what_was_prepared_is_taken(
    shell: Shell, changes: dict[str, object], says: str
) -> None:
    shell.arrival._heard(msgspec.structs.replace(HELLO, **changes))
    (told,) = shell.heard
    if says:
        assert isinstance(told, inp.LinkLost)
        assert says in told.message
        assert shell.arrival._hello is None
    else:
        assert told == inp.PeerHello(register_epoch=EPOCH)
        assert shell.arrival._hello is not None


# Before the source comes.


async def test_a_machine_is_prepared_and_its_link_expected(shell: Shell) -> None:
    (prepared,) = await shell.done(fx.PrepareMachine(spec=SPEC, placements=()))
    assert isinstance(prepared, inp.Prepared)
    assert (prepared.address, prepared.port, prepared.token) == ("192.0.2.1", 9, b"t")
    assert (shell.arrival._vmm, shell.arrival._incoming) == (shell.vmm, shell.incoming)
    assert shell.listener.expect.mock_calls == [call(ANY, b"t", shell.arrival._take_control)]


@pytest.mark.parametrize(
    ("may_run", "is_late", "is_created"),
    [(False, False, True), (True, False, False), (False, True, False)],
)
async def test_a_machine_that_is_leaving_is_waited_for_but_not_one_that_runs_here(
    shell: Shell,
    monkeypatch: pytest.MonkeyPatch,
    may_run: bool,
    is_late: bool,
    is_created: bool,
) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    if is_late:
        monkeypatch.setattr(module, "LEAVING_NS_MAX", -1)
    shell.host.registers.read = AsyncMock(return_value=standing(EPOCH))
    monkeypatch.setattr(module.reg, "may_run", lambda _record, host: may_run and host == "here")
    refused = ConflictError("machine m exists on this host")
    shell.host.hypervisor.create = AsyncMock(side_effect=[refused, refused, shell.vmm])
    (told,) = await shell.done(fx.PrepareMachine(spec=SPEC, placements=()))
    assert isinstance(told, inp.Prepared if is_created else inp.OperationFailed)
    assert waited == [module.LEAVING_LOOK_S] * 2 * is_created


# Memory.


@pytest.mark.parametrize("has_shelf", [True, False])
async def test_memory_is_populated_before_anything_is_received(
    shell: Shell, has_shelf: bool
) -> None:
    shell.has_memory()
    shell.arrival._hello = HELLO
    shell.session.round_applied = AsyncMock(side_effect=UnreachableError("cut"))
    if not has_shelf:
        shell.content.shelf_for = Mock(return_value=None)
    populated, *_ = await shell.done(fx.Populate())
    assert isinstance(populated, inp.Populated)
    assert shell.incoming.populate.mock_calls == [call(HELLO.extents)]
    assert shell.incoming.mock_calls[0] == call.populate(HELLO.extents)
    (received,) = shell.incoming.receive.mock_calls
    assert received.kwargs["content"] is (shell.shelf if has_shelf else None)
    assert received.kwargs["digested"] is False
    assert shell.arrival._holds_content is has_shelf
    assert shell.listener.admit_bulk.mock_calls == [call(shell.session)]
    await asyncio.wait({shell.arrival._rounds})
    assert shell.heard[1:] == [inp.LinkLost(message="cut")]


@pytest.mark.parametrize("verify", ev.Verify)
async def test_what_comes_is_digested_if_it_is_to_be_compared(verify: ev.Verify) -> None:
    assert Shell(verify).arrival._is_digested() is (verify is not ev.Verify.OFF)


async def test_rounds_are_told_as_they_come_and_what_is_held_closed_after_the_first(
    shell: Shell,
) -> None:
    shell.arrival._shelf = shell.shelf
    shell.session.round_applied = AsyncMock(side_effect=[shell.totals] * 3 + [GONE])
    await shell.arrival._watch_rounds(shell.session)
    assert shell.order == ["RoundReceived", "shelf closed", *["RoundReceived"] * 2, "LinkLost"]
    numbers = [each.round for each in shell.heard[:-1]]
    assert numbers == [FIRST_ROUND, FIRST_ROUND + 1, FIRST_ROUND + 2]


@pytest.mark.parametrize(
    ("error", "comes_of_it"),
    [
        (RemoteProtocolError("a torn page"), inp.ImageBad),
        (CorruptError("a torn page"), inp.ImageBad),
        (UnreachableError("cut"), inp.LinkLost),
    ],
)
async def test_pages_that_are_wrong_are_no_lost_link(
    shell: Shell, error: GodwitError, comes_of_it: type[inp.Input]
) -> None:
    shell.session.round_applied = AsyncMock(side_effect=error)
    await shell.arrival._watch_rounds(shell.session)
    (told,) = shell.heard
    assert isinstance(told, comes_of_it)


def staged(shell: Shell, **changes: object) -> fx.LoadImage:
    shell.has_memory()
    shell.arrival._session = shell.session
    shell.arrival._heard(msgspec.structs.replace(STAGE, **changes))
    shell.arrival._heard(msgspec.structs.replace(STAGE, checkpoint=b"another"))
    shell.heard.clear()
    return fx.LoadImage(verify=shell.arrival._stage.verify)


async def test_what_was_staged_first_is_loaded_once_all_has_come(shell: Shell) -> None:
    shell.vmm.load = AsyncMock()
    (loaded,) = await shell.done(staged(shell))
    assert isinstance(loaded, inp.ImageLoaded)
    assert (loaded.pages, loaded.received_bytes, loaded.digests) == (7, 8, {})
    assert loaded.staged_ns > loaded.received_ns
    assert shell.session.mock_calls == [
        call.round_applied(2),
        call.seal(2),
        call.applied_digest(),
    ]
    assert shell.vmm.load.mock_calls == [call(b"c")]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"round": FIRST_ROUND - 1}, "has staged round"),
        ({"sent_digest": b"other"}, "is not that of what was sent"),
        ({"verify": ev.Verify.FULL, "digests": {"ram": b"x"}}, "regions differ"),
        ({"verify": ev.Verify.FULL, "digests": {}}, "regions differ"),
        ({"verify": ev.Verify.FULL, "digests": {"ram": b"d"}}, ""),
        ({"round": FIRST_ROUND}, ""),
    ],
)
async def test_no_image_is_loaded_that_is_not_the_source_s(
    shell: Shell, changes: dict[str, object], says: str
) -> None:
    (told,) = await shell.done(staged(shell, **changes))
    assert ("loaded" in shell.order) is not bool(says)
    if says:
        assert isinstance(told, inp.ImageBad)
        assert says in told.message
    else:
        assert isinstance(told, inp.ImageLoaded)
        assert told.digests == ({"ram": b"d"} if "digests" in changes else {})


async def test_a_last_round_that_does_not_come_is_not_waited_for_for_ever(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STAGE_S_MAX", 0.0)

    async def never(_round: int) -> None:
        await asyncio.Event().wait()

    shell.session.round_applied = never
    (told,) = await shell.done(staged(shell))
    assert isinstance(told, inp.ImageBad)
    assert told.message == "the operation did not end in time"


async def test_nothing_is_taken_over_a_link_that_is_closed(shell: Shell) -> None:
    shell.arrival._hello = HELLO
    assert await shell.done(fx.Populate()) == [inp.OperationFailed(message="the link is closed")]


# The end.


async def test_a_link_is_closed_once_with_all_that_holds_memory(shell: Shell) -> None:
    shell.has_memory()
    shell.arrival._shelf, shell.arrival._session = shell.shelf, shell.session
    shell.arrival._rounds = asyncio.create_task(asyncio.sleep(3600))
    for _ in range(2):
        await shell.done(fx.CloseLink())
    assert shell.order == ["control closed", "memory closed", "shelf closed"]
    assert shell.arrival._session is None
    await asyncio.wait({shell.arrival._rounds})
    assert shell.arrival._rounds.cancelled()


async def test_memory_that_is_in_use_is_closed_by_who_frees_it(shell: Shell) -> None:
    """What this host holds besides is closed all the same."""
    shell.has_memory()
    shell.arrival._shelf = shell.shelf
    shell.incoming.close = AsyncMock(side_effect=DeadlineError("a thread hangs"))
    await shell.arrival._let_go()
    assert shell.order == ["control closed", "shelf closed"]
    assert shell.arrival._vmm is None
    assert shell.arrival._incoming is shell.incoming
    shell.incoming.close = shell._noted("memory closed")
    assert await shell.done(fx.FreeMemory()) == [inp.MemoryFreed()]
    assert shell.order[2:] == ["memory closed", "stopped", "MemoryFreed"]


@pytest.mark.parametrize("phase", Phase)
async def test_the_log_is_told_first_where_the_machine_runs(shell: Shell, phase: Phase) -> None:
    shell.now(phase=phase)
    await shell.arrival._let_go()
    assert shell.order == ["told"] * (phase is Phase.ACTIVE) + ["control closed"]
    assert shell.listener.forget.mock_calls == [call(shell.arrival._link_session)]


async def test_one_that_never_began_lets_go_too(shell: Shell) -> None:
    shell.arrival._runner.state = None
    await shell.arrival._let_go()
    assert shell.order == ["control closed"]


async def test_a_vmm_that_is_just_being_created_is_freed_too(shell: Shell) -> None:
    creating = asyncio.Event()

    async def create(_spec: MachineSpec) -> object:
        creating.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            shell.order.append("creation ended")

    shell.host.hypervisor.create = create
    shell.arrival._perform(fx.PrepareMachine(spec=SPEC, placements=()))
    await creating.wait()
    assert await shell.done(fx.FreeMemory()) == [inp.MemoryFreed()]
    assert shell.order == ["creation ended", "stopped", "MemoryFreed"]


async def test_what_this_life_created_is_ended_whatever_it_says_of_itself(shell: Shell) -> None:
    shell.has_memory()
    shell.vmm.status = AsyncMock(side_effect=SILENT)
    shell.host.hypervisor.find = AsyncMock(return_value=None)
    assert await shell.done(fx.FreeMemory()) == [inp.MemoryFreed()]
    assert shell.order == ["memory closed", "stopped", "MemoryFreed"]


@pytest.mark.parametrize("state", [*VmmState, None])
async def test_what_a_former_life_created_is_ended_unless_it_ran(
    shell: Shell, state: VmmState | None
) -> None:
    if state is None:
        shell.host.hypervisor.find = AsyncMock(return_value=None)
    else:
        shell.vmm.status = AsyncMock(return_value=status(state))
    assert await shell.done(fx.FreeMemory()) == [inp.MemoryFreed()]
    assert ("stopped" in shell.order) is (state in (VmmState.GATED, VmmState.LOADED))


# The register and the machine.


@pytest.mark.parametrize(
    ("answer", "claims"), [(status(), True), (SILENT, True), (GONE, False), (None, False)]
)
async def test_a_machine_is_claimed_only_if_its_vmm_lives(
    shell: Shell, answer: object, claims: bool
) -> None:
    """One that is silent may live. Nobody else can run what was claimed."""
    if answer is None:
        shell.host.hypervisor.find = AsyncMock(return_value=None)
    elif isinstance(answer, Exception):
        shell.vmm.status = AsyncMock(side_effect=answer)
    (told,) = await shell.done(CLAIM)
    assert isinstance(told, inp.CasSettled if claims else inp.OperationFailed)
    assert shell.host.registers.compare_and_set.called is claims
    assert bool(shell.arrival._owned_ns) is claims


async def test_what_may_be_claimed_already_is_claimed_again_whatever_became_of_it(
    shell: Shell,
) -> None:
    await shell.done(CLAIM)
    shell.vmm.status = AsyncMock(side_effect=GONE)
    assert isinstance((await shell.done(CLAIM))[1], inp.CasSettled)
    assert not shell.vmm.status.called


async def test_a_vmm_that_has_just_answered_is_not_asked_again(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ALIVE_NS", 3600_000_000_000)
    await shell.done(staged(shell))
    await shell.done(CLAIM)
    assert not shell.vmm.status.called
    assert isinstance(shell.heard[-1], inp.CasSettled)


async def test_no_gate_is_opened_of_a_vmm_that_is_gone(shell: Shell) -> None:
    shell.host.hypervisor.find = AsyncMock(return_value=None)
    assert await shell.done(fx.OpenGate(epoch=4)) == [
        inp.OperationFailed(message="the VMM of m is gone")
    ]


async def test_a_vmm_is_looked_for_once(shell: Shell) -> None:
    """In a stun nobody asks who it is."""
    await shell.done(CLAIM)
    opened = (await shell.done(fx.OpenGate(epoch=4)))[1]
    assert isinstance(opened, inp.GateOpened)
    assert opened.first_step_ns == 11
    assert opened.owned_ns == shell.arrival._owned_ns
    assert len(shell.host.hypervisor.find.mock_calls) == 1


async def test_effects_reach_whom_they_are_for(shell: Shell) -> None:
    shell.host.registers.read = AsyncMock(return_value=reg.NO_REGISTER)
    assert await shell.done(fx.ReadRegister()) == [inp.RegisterRead(standing=reg.NO_REGISTER)]
    await shell.done(fx.AwaitFlush())
    assert shell.facts.await_flush.called
    shell.arrival._fence = Mock()
    await shell.done(fx.FencePeer())
    assert shell.arrival._fence.ask.called


# What is done beforehand.


@pytest.mark.parametrize(
    ("message", "is_rehearsed"),
    [(link.Staged(), True), (link.Refuse(reason="", message=""), False)],
)
async def test_what_follows_the_word_that_all_is_staged_is_rehearsed(
    shell: Shell, message: link.LinkMessage, is_rehearsed: bool
) -> None:
    shell.arrival._runner.rehearse = Mock()
    await shell.done(fx.Say(message=message))
    await asyncio.sleep(0)
    assert shell.arrival._runner.rehearse.called is is_rehearsed


@pytest.mark.parametrize("stun_near", [True, False])
async def test_a_stun_is_rehearsed_when_it_is_near(shell: Shell, stun_near: bool) -> None:
    shell.arrival._runner.rehearse = Mock()
    shell.arrival._heard(link.Ping(stun_near=stun_near))
    assert shell.arrival._runner.rehearse.called is stun_near
