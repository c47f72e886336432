"""The source's shell, on a host of which nothing is real: what it does, in which order, and what it
tells the core of what it came to.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from unittest.mock import AsyncMock, Mock, call

import msgspec
import pytest

from godwit.host import side
from godwit.hypervisor.port import Checkpoint, VmmLostError, VmmState, VmmStatus
from godwit.runtime.journal import JournalFullError
from godwit.source_host import departure as module
from godwit.source_host.departure import Departure
from godwit_protocol import link
from godwit_protocol import register as reg
from godwit_protocol.errors import (
    AbortedError,
    DeadlineError,
    GodwitError,
    RefusedError,
    UnreachableError,
)
from godwit_protocol.events import migration as ev
from godwit_protocol.machine import MachineSpec
from godwit_protocol.roles import effects as fx
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles import source
from godwit_protocol.roles.effects import Durability
from godwit_protocol.roles.source_state import Phase

SPEC = MachineSpec(name="m", guest="godwit.guests.memhog:Memhog", ram_bytes=4096)
EPOCH = 3
WELCOME = link.Welcome(version=link.LINK_VERSION, populate_ns=5, cores=2)
INTENT = ev.StunIntended(predicted_stun_ns=1, remaining_bytes=1)
APPLIED = link.RoundApplied(round=1, pages=1, applied_bytes=1)


def status(state: VmmState = VmmState.PAUSED, epoch: int = EPOCH) -> VmmStatus:
    return VmmStatus(SPEC, state, epoch, pid=1, steps=0, failure="")


def standing(epoch: int) -> reg.RegisterView:
    value = reg.RegisterValue.STARTED
    return reg.RegisterView(
        reg.RegisterRecord(value=value, machine="m", owner="here", epoch=epoch), 1
    )


class Shell:
    """A departure that has begun. ``heard`` is what its core was told."""

    def __init__(self, verify: ev.Verify = ev.Verify.OFF) -> None:
        self.order: list[str] = []
        self.said: list[link.LinkMessage] = []
        self.outgoing = Mock(
            close=self._noted("outgoing closed"),
            connect=AsyncMock(),
            digests=AsyncMock(return_value={"ram": b"d"}),
            held=AsyncMock(return_value=(b"",)),
            sent_digest=Mock(return_value=b"sent"),
            send_round=AsyncMock(return_value=Mock(pages=1, sent_bytes=2, scan_ns=3)),
        )
        self.vmm = Mock(
            status=AsyncMock(return_value=status()),
            outgoing=AsyncMock(return_value=self.outgoing),
            stop=AsyncMock(),
        )
        self.host = Mock()
        self.host.name = "here"
        self.host.clock.monotonic_ns = time.monotonic_ns
        self.host.config = Mock(bulk_connections=2, content_store=True)
        self.host.hypervisor.find = AsyncMock(return_value=self.vmm)
        self.facts = Mock(telling=lambda message: message, told=self._noted("told"))
        self.pace = Mock(bytes_per_second=0)
        self.departure = Departure(self.host, "now", "m", EPOCH, self.facts, "there", self.pace)
        started = ev.MigrationStarted(
            source="here",
            destination="there",
            address="192.0.2.2",
            port=1,
            token=b"t",
            limits=ev.Limits(),
            verify=verify,
            register_epoch=EPOCH,
        )
        view = standing(EPOCH)
        self.departure.begin(source.begin(started, "m", view, migration="now", now_ns=0)[0])
        self.heard: list[inp.Input] = []
        self.departure._runner.tell = self._hear
        self.control = Mock(say=self.said.append, close=self._noted("control closed"))
        self.departure._control = self.control
        self.departure._outgoing = self.outgoing

    def _hear(self, given: inp.Input) -> None:
        self.order.append(type(given).__name__)
        self.heard.append(given)

    def _noted(self, what: str) -> Callable[..., object]:
        async def note(*_: object) -> None:
            self.order.append(what)

        return note

    def now(self, **changes: object) -> None:
        """The role's state is another one."""
        state = self.departure._runner.state
        self.departure.begin(msgspec.structs.replace(state, **changes))

    async def done(self, effect: fx.Effect) -> list[inp.Input]:
        """What comes of an effect."""
        self.departure._perform(effect)
        while self.departure._runner._tasks:
            await asyncio.wait(set(self.departure._runner._tasks))
        return self.heard


@pytest.fixture
async def shell() -> Shell:
    return Shell()


# Facts.


async def test_a_fact_is_of_the_epoch_that_the_role_is_in(shell: Shell) -> None:
    written: list[int] = []
    shell.facts.append = lambda _: written.append(shell.facts.writer.epoch)
    lagging = fx.Append(event=ev.MachineReleased(), durability=Durability.LAGGING)
    assert await shell.done(lagging) == []
    shell.now(register=standing(EPOCH + 1))
    await shell.done(lagging)
    assert written == [EPOCH, EPOCH + 1]


async def test_a_fact_for_which_there_is_no_room_is_told_of(shell: Shell) -> None:
    shell.facts.append = Mock(side_effect=JournalFullError("no room"))
    intended = fx.Append(event=INTENT, durability=Durability.LOGGED)
    assert await shell.done(intended) == [inp.JournalFull(message="no room")]
    assert shell.said == []


async def test_the_stun_comes_once_the_log_has_the_intent_and_no_clock_is_asked_in_it(
    shell: Shell,
) -> None:
    stored = asyncio.get_running_loop().create_future()
    shell.facts.append = Mock(return_value=stored)
    shell.departure._perform(fx.Append(event=INTENT, durability=Durability.LOGGED))
    await asyncio.sleep(0)
    shell.departure._heard(WELCOME)
    assert shell.said == [link.Ping(stun_near=True)]
    assert shell.heard == []
    stored.set_result(True)
    assert await shell.done(fx.AwaitFlush()) == [inp.Appended(type=ev.StunIntended.TYPE)]


async def test_an_intent_that_the_log_refuses_leads_to_no_stun(shell: Shell) -> None:
    stored = asyncio.get_running_loop().create_future()
    stored.set_result(False)
    shell.facts.append = Mock(return_value=stored)
    (told,) = await shell.done(fx.Append(event=INTENT, durability=Durability.LOGGED))
    assert told == inp.AppendFailed(
        type=ev.StunIntended.TYPE, message="the event log refused the event"
    )


@pytest.mark.parametrize("durability", set(Durability) - {Durability.LOGGED})
async def test_nothing_else_is_waited_for(shell: Shell, durability: Durability) -> None:
    shell.facts.append = Mock(return_value=asyncio.get_running_loop().create_future())
    assert await shell.done(fx.Append(event=ev.MachineReleased(), durability=durability)) == []
    assert shell.said == []


async def test_effects_reach_whom_they_are_for(shell: Shell) -> None:
    shell.host.registers.read = AsyncMock(return_value=reg.NO_REGISTER)
    assert await shell.done(fx.ReadRegister()) == [inp.RegisterRead(standing=reg.NO_REGISTER)]
    await shell.done(fx.SetBandwidth(bytes_per_second=7))
    assert shell.pace.set_cap.mock_calls == [call(7)]
    await shell.done(fx.CloseLink())
    assert shell.order == ["RegisterRead", "control closed", "outgoing closed"]


# The direct link.


@pytest.mark.parametrize("verify", ev.Verify)
async def test_what_is_sent_is_digested_if_it_is_to_be_compared(verify: ev.Verify) -> None:
    shell = Shell(verify)
    assert shell.departure._is_digested() is (verify is not ev.Verify.OFF)


async def test_what_was_staged_is_said_with_the_digest_of_what_was_sent(shell: Shell) -> None:
    staged = fx.SayStage(round=4, verify=ev.Verify.FULL)
    shell.departure._checkpoint = Checkpoint(b"c", 1)
    shell.departure._digests = {"ram": b"d"}
    await shell.done(staged)
    shell.departure._outgoing = None
    await shell.done(staged)
    said = link.Stage(
        round=4, checkpoint=b"c", verify=ev.Verify.FULL, digests={"ram": b"d"}, sent_digest=b"sent"
    )
    assert shell.said == [said, msgspec.structs.replace(said, sent_digest=b"")]


@pytest.mark.parametrize("fails", ["find", "status", "outgoing", "held"])
async def test_a_vmm_that_fails_is_no_fault_of_the_destination(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    error = UnreachableError("the VMM is gone")
    shell.departure._outgoing = None
    shell.host.dial = AsyncMock(return_value=(Mock(), Mock()))
    monkeypatch.setattr(module, "ControlLink", Mock(return_value=shell.control))
    match fails:
        case "find":
            shell.host.hypervisor.find = AsyncMock(return_value=None)
        case "held":
            shell.outgoing.held = AsyncMock(side_effect=error)
        case _:
            setattr(shell.vmm, fails, AsyncMock(side_effect=error))
    (told,) = await shell.done(fx.OpenLink(address="there", port=1, token=b"t"))
    assert isinstance(told, inp.OperationFailed)
    says = "no VMM of machine m is alive" if fails == "find" else error.message
    assert says in told.message


@pytest.mark.parametrize("part", ["slow", "dirty"])
@pytest.mark.parametrize(
    ("error", "comes_of_it"),
    [
        (UnreachableError("the VMM is gone"), inp.OperationFailed),
        (AbortedError("broken off"), inp.LinkLost),
    ],
)
async def test_so_it_is_in_a_round_unless_it_was_broken_off(
    shell: Shell, part: str, error: GodwitError, comes_of_it: type[inp.Input]
) -> None:
    shell.outgoing.slow, shell.outgoing.dirty = AsyncMock(), AsyncMock()
    setattr(shell.outgoing, part, AsyncMock(side_effect=error))
    shell.departure._heard(APPLIED)
    (told,) = await shell.done(fx.SendRound(round=1))
    assert isinstance(told, comes_of_it)


async def test_a_round_is_done_when_it_is_applied(shell: Shell) -> None:
    shell.outgoing.slow = shell.outgoing.dirty = AsyncMock()
    shell.departure._perform(fx.SendRound(round=1))
    for _ in range(20):
        await asyncio.sleep(0)
    assert shell.outgoing.send_round.called
    assert not shell.outgoing.dirty.mock_calls[1:]
    shell.departure._lost("cut")
    assert [type(each) for each in await shell.done(fx.AwaitFlush())] == [
        inp.LinkLost,
        inp.LinkLost,
    ]


async def test_a_round_that_is_over_is_not_reported_any_more(shell: Shell) -> None:
    shell.outgoing.slow, shell.outgoing.dirty = (
        AsyncMock(),
        AsyncMock(side_effect=AbortedError("x")),
    )
    shell.departure._heard(APPLIED)
    await shell.done(fx.SendRound(round=1))
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_nothing_is_sent_over_a_link_that_is_closed(shell: Shell) -> None:
    shell.departure._outgoing = None
    lost = inp.LinkLost(message="the link is closed")
    assert await shell.done(fx.SendFinal(round=2, verify=ev.Verify.OFF)) == [lost]
    assert await shell.done(fx.SendRound(round=2)) == [lost, lost]


async def test_whoever_waits_once_the_link_is_lost_is_told_why(shell: Shell) -> None:
    """Also who begins to wait only then, and whatever was answered before stays so."""
    shell.departure._heard(APPLIED)
    shell.departure._heard(APPLIED)
    waiting = shell.departure._applied_future(2)
    shell.departure._lost("cut")
    shell.departure._lost("cut again")
    assert (await shell.departure._applied_future(1)).round == 1
    for broken in (waiting, shell.departure._welcome):
        with pytest.raises(UnreachableError, match=r"cut$"):
            await broken
    with pytest.raises(UnreachableError, match="cut again"):
        await shell.departure._applied_future(3)
    assert shell.departure._over.is_set()
    assert shell.outgoing.abort.called
    assert shell.heard[0] == inp.LinkLost(message="cut")


@pytest.mark.parametrize("message", [WELCOME, APPLIED])
async def test_what_time_it_is_there_is_asked_after_every_round(
    shell: Shell, message: link.LinkMessage
) -> None:
    """Two clocks drift apart: what is known by the stun must be young."""
    shell.departure._heard(message)
    (asked,) = shell.said
    assert isinstance(asked, link.Ping)
    assert asked.asked_ns
    shell.departure._heard(link.Pong(asked_ns=asked.asked_ns, heard_ns=5, said_ns=6))
    assert shell.departure._peer_clock.offset_ns() is not None


async def test_what_nobody_waited_for_is_no_failure() -> None:
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    shell = Shell()
    shell.departure._lost("cut")
    shell.departure._applied_future(1)
    del shell
    gc.collect()
    await asyncio.sleep(0)
    assert failures == []


async def test_what_the_destination_says_is_told_and_is_what_a_fact_comes_of(
    shell: Shell,
) -> None:
    messages = [
        link.Staged(),
        link.Active(epoch=4, first_step_ns=1),
        link.Refuse(reason=ev.AbortReason.DESTINATION_REFUSED, message="no"),
        link.Quarantined(),
    ]
    for message in messages:
        shell.departure._heard(message)
    kinds = [inp.PeerStaged, inp.PeerActive, inp.PeerRefused, inp.PeerQuarantined]
    assert [type(each) for each in shell.heard] == kinds
    assert shell.facts.causes.by_link.mock_calls == [call(message) for message in messages]


async def test_a_refusal_ends_what_waits(shell: Shell) -> None:
    shell.departure._heard(link.Refuse(reason=ev.AbortReason.VERIFICATION_FAILED, message="no"))
    with pytest.raises(UnreachableError, match="no"):
        await shell.departure._applied_future(1)


async def test_a_link_is_closed_once_and_takes_nobody_s_bandwidth_any_more(shell: Shell) -> None:
    await shell.departure._close_link()
    await shell.departure._close_link()
    assert shell.order == ["control closed", "outgoing closed"]
    assert shell.pace.lift.called
    assert shell.departure._over.is_set()


@pytest.mark.parametrize("phase", Phase)
async def test_the_log_is_told_first_where_the_machine_has_left(shell: Shell, phase: Phase) -> None:
    shell.now(phase=phase)
    await shell.departure._close_link()
    has_left = phase in (Phase.RELEASING, Phase.RELEASED)
    assert shell.order == ["told"] * has_left + ["control closed", "outgoing closed"]


async def test_a_link_that_was_never_opened_is_closed_too() -> None:
    shell = Shell()
    shell.departure._control = shell.departure._outgoing = None
    shell.departure._runner.state = None
    await shell.departure._close_link()
    assert shell.order == []


async def test_who_is_over_holds_neither_the_link_nor_the_vmm(shell: Shell) -> None:
    await shell.departure._vmm()
    await shell.departure._let_go()
    assert shell.order == ["control closed", "outgoing closed"]
    assert shell.departure._found is None


# The last round.


@pytest.mark.parametrize("verify", ev.Verify)
async def test_the_last_round_has_the_whole_link_and_is_digested_if_it_is_to_be(
    shell: Shell, verify: ev.Verify
) -> None:
    (sent,) = await shell.done(fx.SendFinal(round=2, verify=verify))
    assert isinstance(sent, inp.FinalSent)
    assert shell.pace.lift.called
    assert shell.outgoing.send_round.mock_calls == [call(2, wait_bytes_max=0, in_stun=True)]
    is_full = verify is ev.Verify.FULL
    assert shell.departure._digests == ({"ram": b"d"} if is_full else {})
    assert bool(sent.digest_ns) is is_full


async def test_a_destination_that_breaks_off_has_a_last_word(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told before the broken connection is; of a VMM that died there is none to wait for."""
    shell.outgoing.send_round = AsyncMock(side_effect=UnreachableError("connection reset"))
    monkeypatch.setattr(module, "LAST_WORD_S", 3600.0)
    shell.departure._perform(fx.SendFinal(round=2, verify=ev.Verify.OFF))
    for _ in range(20):
        await asyncio.sleep(0)
    assert shell.heard == []
    refused = link.Refuse(reason=ev.AbortReason.VERIFICATION_FAILED, message="a torn page")
    shell.departure._heard(refused)
    told = await shell.done(fx.AwaitFlush())
    assert [type(each) for each in told] == [inp.PeerRefused, inp.LinkLost]


async def test_without_a_last_word_it_is_not_waited_for(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.outgoing.send_round = AsyncMock(side_effect=UnreachableError("connection reset"))
    monkeypatch.setattr(module, "LAST_WORD_S", 0.0)
    lost = inp.LinkLost(message="connection reset")
    assert await shell.done(fx.SendFinal(round=2, verify=ev.Verify.OFF)) == [lost]
    monkeypatch.setattr(module, "LAST_WORD_S", 3600.0)
    shell.outgoing.send_round = AsyncMock(side_effect=VmmLostError("the VMM is gone"))
    async with asyncio.timeout(60):
        await shell.done(fx.SendFinal(round=2, verify=ev.Verify.OFF))
    assert shell.heard[1:] == [inp.LinkLost(message="the VMM is gone")]


# The machine.


async def test_a_machine_whose_replies_wait_is_paused_when_they_are_stored(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    refused = RefusedError("replies wait")
    shell.vmm.pause = AsyncMock(side_effect=[refused, refused, Checkpoint(b"abc", 9)])
    assert await shell.done(fx.PauseMachine()) == [inp.Paused(stopped_ns=9, checkpoint_bytes=3)]
    assert shell.departure._checkpoint == Checkpoint(b"abc", 9)
    assert waited == [module.REPLIES_PACE_S] * 2
    monkeypatch.setattr(module, "REPLIES_S_MAX", -1.0)
    shell.vmm.pause = AsyncMock(side_effect=[refused, Checkpoint(b"abc", 9)])
    assert (await shell.done(fx.PauseMachine()))[1:] == [
        inp.OperationFailed(message="replies wait")
    ]


@pytest.mark.parametrize(
    ("states", "asked"),
    [
        ([VmmState.PAUSED], [call(5)]),
        ([VmmState.RUNNING], []),
        ([DeadlineError("silent"), VmmState.RUNNING], []),
        ([DeadlineError("silent"), VmmState.PAUSED], [call(5)]),
    ],
)
async def test_a_machine_is_resumed_once_however_silent_its_vmm_is(
    shell: Shell, states: list[VmmState | DeadlineError], asked: list[object]
) -> None:
    answers = [each if isinstance(each, Exception) else status(each) for each in states]
    shell.vmm.status = AsyncMock(side_effect=answers)
    shell.vmm.resume = AsyncMock(return_value=11)
    (resumed,) = await shell.done(fx.ResumeMachine(epoch=5))
    assert isinstance(resumed, inp.Resumed)
    assert (resumed.first_step_ns == 11) is bool(asked)
    assert shell.vmm.resume.mock_calls == asked


async def test_a_vmm_is_looked_for_once(shell: Shell) -> None:
    """In a stun nobody asks who it is."""
    assert await shell.departure._vmm() is await shell.departure._vmm() is shell.vmm
    assert len(shell.host.hypervisor.find.mock_calls) == 1


async def test_memory_is_freed_after_the_log_was_told(shell: Shell) -> None:
    shell.vmm.stop = shell._noted("stopped")
    assert await shell.done(fx.FreeMemory()) == [inp.MemoryFreed()]
    assert shell.order == ["told", "stopped", "MemoryFreed"]


@pytest.mark.parametrize(("epoch", "is_ended"), [(0, False), (1, True), (EPOCH, True), (4, False)])
async def test_only_what_the_machine_left_is_ended(
    shell: Shell, epoch: int, is_ended: bool
) -> None:
    shell.vmm.status = AsyncMock(return_value=status(epoch=epoch))
    assert await shell.done(fx.FreeMemory()) == [inp.MemoryFreed()]
    assert shell.vmm.stop.called is is_ended


async def test_what_is_gone_need_not_be_ended(shell: Shell) -> None:
    shell.host.hypervisor.find = AsyncMock(return_value=None)
    assert await shell.done(fx.FreeMemory()) == [inp.MemoryFreed()]


# What both sides have in common.


async def test_what_comes_by_the_log_may_be_what_a_fact_comes_of(shell: Shell) -> None:
    decision = Mock()
    shell.departure.note(decision)
    assert shell.facts.causes.by_log.mock_calls == [call(decision)]


async def test_a_side_that_is_over_asks_no_more_for_a_proof(shell: Shell) -> None:
    shell.departure._fence = Mock(stop=shell._noted("asks no more"))
    finish = fx.Finish(reason=ev.AbortReason.NONE)
    await shell.departure.run(shell.departure._runner.state, (finish,))
    assert shell.order == ["asks no more", "control closed", "outgoing closed"]


@pytest.mark.parametrize(
    ("answer", "comes_of_it"),
    [
        (inp.CasSettled(won=True, standing=standing(4)), ["CasSettled"]),
        (inp.CasUnclear(message="no answer"), ["a while", "CasUnclear"]),
        (UnreachableError("no answer"), ["a while", "CasUnclear"]),
    ],
)
async def test_a_register_that_does_not_answer_is_asked_again_only_after_a_while(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, answer: object, comes_of_it: list[str]
) -> None:
    is_error = isinstance(answer, Exception)
    shell.host.registers.compare_and_set = AsyncMock(
        side_effect=[answer] if is_error else None, return_value=answer
    )

    async def sleep(seconds: float) -> None:
        assert seconds == side.CAS_PACE_S
        shell.order.append("a while")

    monkeypatch.setattr(side.asyncio, "sleep", sleep)
    cas = fx.CompareAndSet(record=standing(4).record, expected_sequence=1)
    await shell.done(cas)
    assert shell.order == comes_of_it
