"""An operator's order that finds no role here: refused, or, if it is the last to know, obeyed."""

from __future__ import annotations

from unittest.mock import AsyncMock, Mock

import msgspec
import pytest

from godwit.host.fencing import NotFencedError, Proof
from godwit.host.orders import answer_order
from godwit.runtime.clock import SystemClock
from godwit.runtime.lane import Scope
from godwit.runtime.signing import Signer
from godwit_protocol.events import Event, Lane, Recorded
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events.signed import LaneSigned
from memory_log import MemoryLog
from signers import SIGNERS

SCOPE = Scope.of_migration("now", "m")
ORDERED = ev.RunOrdered(target="host-1", requested_by="ada@desk")
STARTED = ev.MigrationStarted(
    source="host-1",
    destination="host-2",
    address="192.0.2.2",
    port=1,
    token=b"t",
    limits=ev.Limits(),
    verify=ev.Verify.OFF,
    register_epoch=1,
)
ENDED = ev.MigrationEnded(outcome=ev.Outcome.ABORTED)
FAILED = mev.MachineFailed(message="dead")
DISCARDED = ev.ImageDiscarded(reason=ev.AbortReason.NONE)
LEFT = ev.MemoryLeft(message="it does not die")


class Bench:
    """A host with nothing but a log and a fencing program; ``lanes`` are of one migration."""

    def __init__(self, name: str = "host-1", signer: Signer | None = None) -> None:
        self.log = MemoryLog()
        self.lane = Lane.SOURCE if name == "host-1" else Lane.DESTINATION
        self.host = Mock(log=self.log, clock=SystemClock(), signer=signer)
        self.host.name = name
        self.prove_off = AsyncMock(return_value=Proof(program="/fence", answer="powered-off"))
        self.host.fencing.prove_off = self.prove_off

    async def said(self, *events: tuple[Lane, str, Event]) -> None:
        for lane, host, event in events:
            await self.log.say(lane, host, SCOPE, event)

    async def order(self, event: ev.RunOrdered = ORDERED) -> Recorded:
        await self.log.say(Lane.OPERATOR, "desk", SCOPE, event)
        return self.log.told(Lane.OPERATOR)[-1]

    async def answers(self, order: Recorded | None = None) -> list[Event]:
        """What is said to an order."""
        order = order or await self.order()
        before = len(self.log.told(self.lane))
        await answer_order(self.host, self.lane, order)
        return [each.event for each in self.log.told(self.lane)[before:]]


def started() -> tuple[Lane, str, Event]:
    return Lane.COORDINATOR, "c", STARTED


async def test_without_a_part_each_order_is_refused_once() -> None:
    bench = Bench()
    first, second = await bench.order(), await bench.order()
    for order in (first, second):
        (refused,) = await bench.answers(order)
        assert isinstance(refused, ev.RunOrderRefused)
        assert (refused.order, "has no part" in refused.message) == (order.envelope.id, True)
        assert await bench.answers(order) == []
    bench.prove_off.assert_not_awaited()


@pytest.mark.parametrize("nothing_left", [FAILED, DISCARDED, LEFT])
@pytest.mark.parametrize(("name", "peer"), [("host-1", "host-2"), ("host-2", "host-1")])
async def test_with_nothing_left_here_the_proof_that_the_other_is_off_is_told(
    name: str, peer: str, nothing_left: Event
) -> None:
    bench = Bench(name)
    await bench.said(started(), (bench.lane, name, nothing_left))
    assert await bench.answers() == [
        ev.HostFenced(target=peer, program="/fence", answer="powered-off", vouched_by="")
    ]
    bench.prove_off.assert_awaited_once_with(peer, "")


async def test_whoever_says_that_the_other_is_off_vouches_for_it() -> None:
    bench = Bench()
    await bench.said(started(), (Lane.SOURCE, "host-1", FAILED))
    vouched = msgspec.structs.replace(ORDERED, other_is_off=True)
    await bench.answers(await bench.order(vouched))
    bench.prove_off.assert_awaited_once_with("host-2", "ada@desk")


async def test_without_proof_the_order_is_refused() -> None:
    bench = Bench()
    await bench.said(started(), (Lane.SOURCE, "host-1", FAILED))
    bench.prove_off.side_effect = NotFencedError("it is on")
    order = await bench.order()
    (refused,) = await bench.answers(order)
    assert isinstance(refused, ev.RunOrderRefused)
    assert refused.order == order.envelope.id
    assert refused.message == "nothing is left here to run, and it is on"


@pytest.mark.parametrize(
    "story",
    [
        [started()],
        [(Lane.SOURCE, "host-1", FAILED)],
        [started(), (Lane.DESTINATION, "host-2", DISCARDED)],
        [started(), (Lane.SOURCE, "host-1", ev.MachineReleased())],
        [started(), (Lane.SOURCE, "host-1", FAILED), (Lane.COORDINATOR, "c", ENDED)],
    ],
)
async def test_of_what_has_ended_or_may_be_here_no_other_host_is_fenced(
    story: list[tuple[Lane, str, Event]],
) -> None:
    bench = Bench()
    await bench.said(*story)
    (refused,) = await bench.answers()
    assert isinstance(refused, ev.RunOrderRefused)
    bench.prove_off.assert_not_awaited()


async def test_an_answer_is_signed_after_it_was_told() -> None:
    bench = Bench(signer=SIGNERS["host-1"])
    answers = await bench.answers()
    assert [type(each) for each in answers] == [ev.RunOrderRefused, LaneSigned]
    told = bench.log.told(Lane.SOURCE)
    assert [each.envelope.lane_sequence for each in told] == [1, 2]
    assert told[1].envelope.prev_hash != told[0].envelope.prev_hash
