"""When the other host is asked for, how often, and what becomes of a proof."""

from __future__ import annotations

import asyncio
from unittest.mock import AsyncMock, Mock, call

import pytest

from godwit.host import peer_fence as module
from godwit.host.fencing import NotFencedError, Proof
from godwit.host.peer_fence import PeerFence
from godwit_protocol.errors import UnreachableError
from godwit_protocol.events import migration as ev
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.effects import Address, Durability, Service

OWN = Address("here", Service.SOURCE_HOST)
NOT_YET = NotFencedError("it answers still")


class Fence:
    """A fence whose program says what a test wants."""

    def __init__(self, *answers: Proof | Exception, needs_operator: bool = False) -> None:
        self.program = AsyncMock(side_effect=[*answers])
        self.stored: list[asyncio.Future[bool]] = []
        self.facts = Mock(write=Mock(side_effect=self._write))
        self.told: list[inp.Input] = []
        fencing = Mock(prove_off=self.program, needs_operator=needs_operator)
        self.fence = PeerFence(fencing, self.facts, OWN, "there", self.told.append)

    def _write(self, *_: object) -> asyncio.Future[bool]:
        self.stored.append(asyncio.get_running_loop().create_future())
        return self.stored[-1]

    async def turns(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACE_S", 0.0)


async def test_a_proof_is_stored_durably_for_who_asked_before_the_role_is_told() -> None:
    fence = Fence(Proof(program="/fence", answer="powered-off there"))
    proving = asyncio.create_task(fence.fence.prove("ada@desk"))
    await fence.turns()
    assert fence.program.mock_calls == [call("there", "ada@desk")]
    fenced = ev.HostFenced(
        target="there", program="/fence", answer="powered-off there", vouched_by=""
    )
    assert fence.facts.write.mock_calls == [call(fenced, Durability.JOURNALED, OWN)]
    assert fence.told == []
    fence.stored[0].set_result(True)
    await proving
    assert fence.told == [inp.PeerFenced()]


async def test_whoever_wants_a_proof_that_is_being_got_waits_for_that_one() -> None:
    """A program may take a host's power: it is not asked to twice, also while the log is away."""
    fence = Fence(Proof(answer="off"), Proof(answer="off again"))
    may_end = asyncio.Event()

    async def prove(*_: object) -> Proof:
        await may_end.wait()
        return Proof(answer="off")

    fence.program.side_effect = prove
    proofs = [asyncio.create_task(fence.fence.prove(by)) for by in ("", "ada@desk")]
    await fence.turns()
    may_end.set()
    await fence.turns()
    proofs.append(asyncio.create_task(fence.fence.prove()))
    await fence.turns()
    assert len(fence.program.mock_calls) == len(fence.stored) == 1
    fence.stored[0].set_result(True)
    await asyncio.gather(*proofs)
    assert fence.told == [inp.PeerFenced()] * 3


async def test_a_proof_that_the_log_refused_is_got_again() -> None:
    fence = Fence(Proof(answer="1"), Proof(answer="2"))
    proving = asyncio.create_task(fence.fence.prove())
    await fence.turns()
    fence.stored[0].set_result(False)
    with pytest.raises(UnreachableError):
        await proving
    proving = asyncio.create_task(fence.fence.prove())
    await fence.turns()
    fence.stored[1].set_result(True)
    await proving
    await fence.fence.prove()
    assert len(fence.stored) == 2
    assert fence.told == [inp.PeerFenced()] * 2


async def test_a_host_is_asked_for_until_there_is_proof_and_then_no_more() -> None:
    fence = Fence(NOT_YET, NOT_YET, Proof(answer="off"))
    fence.fence.ask()
    fence.fence.ask()
    await fence.turns()
    fence.stored[0].set_result(True)
    await fence.turns()
    fence.fence.ask()
    await fence.turns()
    assert len(fence.program.mock_calls) == 3
    assert fence.told == [inp.PeerFenced()]


async def test_it_is_not_asked_for_ever_nor_without_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fence = Fence(*[NOT_YET] * (module.TRIES_MAX + 1))
    paused: list[float] = []

    async def sleep(seconds: float) -> None:
        paused.append(seconds)

    monkeypatch.setattr(module, "PACE_S", 7.0)
    with monkeypatch.context() as patched:
        patched.setattr(module.asyncio, "sleep", sleep)
        await fence.fence._keep_asking()
    assert len(fence.program.mock_calls) == module.TRIES_MAX
    assert paused == [7.0] * module.TRIES_MAX


async def test_where_only_an_operator_could_say_nobody_is_asked() -> None:
    fence = Fence(needs_operator=True)
    fence.fence.ask()
    await fence.turns()
    assert not fence.program.called
    await fence.fence.stop()


async def test_who_stops_asking_waits_until_it_has_stopped() -> None:
    fence = Fence()
    ended: list[str] = []

    async def ask(*_: object) -> Proof:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("the program has ended")
        raise AssertionError

    fence.program.side_effect = ask
    fence.fence.ask()
    await fence.turns()
    await fence.fence.stop()
    assert ended == ["the program has ended"]
    await fence.fence.stop()
