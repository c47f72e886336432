"""An operator's order: refused where there is nothing to decide, obeyed only with proof.

The shells of both roles on a host of which nothing is real; what each role is told is noted, and
goes no further.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from unittest.mock import AsyncMock, Mock

import msgspec
import pytest

from godwit.destination_host.arrival import Arrival
from godwit.host.fencing import Fencing, NoFencing, Proof
from godwit.host.registers import Overruled
from godwit.host.role import RoleRunner
from godwit.source_host.departure import Departure
from godwit_protocol import register as reg
from godwit_protocol.events import Event
from godwit_protocol.events import migration as ev
from godwit_protocol.machine import MachineSpec
from godwit_protocol.roles import destination, destination_state, source, source_state
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.effects import Durability
from orders import preparation

SPEC = MachineSpec(name="m", guest="guests:Any", ram_bytes=4096)
STANDING = reg.RegisterView(reg.started("m", "host-1", None), 1)
OVERRULED = Overruled(STANDING, reg.RegisterView(None, 7))
RUN = inp.RunOrdered(standing=OVERRULED.standing, seen=OVERRULED.seen)
ORDERED = ev.RunOrdered(target="host", requested_by="ada@desk")
VOUCHED = msgspec.structs.replace(ORDERED, other_is_off=True)

Phase = source.Phase | destination.Phase


class SlowFencing:
    """``Fencing`` that takes until it may."""

    needs_operator = False

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.may_end = asyncio.Event()

    async def prove_off(self, host: str, vouched_by: str = "") -> Proof:
        self.asked.append(vouched_by)
        await self.may_end.wait()
        return Proof(program="/fence", answer=f"powered-off {host}", vouched_by=vouched_by)


class Ordered:
    """A shell in a phase, that takes orders; what it writes, and what its role is told."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        phase: Phase,
        fencing: Fencing,
        *,
        is_peer_off: bool = False,
    ) -> None:
        self.told: list[inp.Input] = []
        self.written: list[Event] = []
        self.stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Whether the log has what was written."""
        monkeypatch.setattr(RoleRunner, "tell", lambda _runner, given: self.told.append(given))
        host, facts = Mock(fencing=fencing), Mock(write=self._write)
        host.registers.to_overrule = AsyncMock(return_value=OVERRULED)
        self.side: Arrival | Departure
        if isinstance(phase, source.Phase):
            begun, _ = source.begin(_started(), "m", STANDING, migration="now", now_ns=0)
            here = msgspec.structs.replace(begun, phase=phase, fenced=is_peer_off)
            self.side = Departure(host, "now", "m", 1, facts, "host-2", Mock())
            self.side.begin(here)
        else:
            prepared, _ = destination.begin(preparation(SPEC), STANDING, migration="now", now_ns=0)
            there = msgspec.structs.replace(prepared, phase=phase, fenced=is_peer_off)
            self.side = Arrival(host, "now", SPEC, facts, Mock(), "host-1", Mock())
            self.side.begin(there)

    def _write(self, event: Event, _durability: Durability, *_to: object) -> asyncio.Future[bool]:
        self.written.append(event)
        return self.stored

    async def until_done(self) -> None:
        async with asyncio.timeout(10):
            await asyncio.gather(*self.side._runner._tasks)


def _started() -> ev.MigrationStarted:
    return ev.MigrationStarted(
        source="host-1",
        destination="host-2",
        address="192.0.2.2",
        port=1,
        token=b"t",
        limits=ev.Limits(),
        verify=ev.Verify.OFF,
        register_epoch=1,
    )


async def until(done: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(0)


MAY_BE_ORDERED: tuple[Phase, ...] = (
    *sorted(source_state.MAY_BE_ORDERED),
    *sorted(destination_state.MAY_BE_ORDERED),
)
NOTHING_TO_DECIDE: tuple[Phase, ...] = (
    *sorted(set(source.Phase) - source_state.MAY_BE_ORDERED),
    *sorted(set(destination.Phase) - destination_state.MAY_BE_ORDERED),
)
IN_DOUBT: tuple[Phase, ...] = (source.Phase.DOUBTING, destination.Phase.DOUBTING)


@pytest.mark.parametrize("phase", NOTHING_TO_DECIDE)
async def test_where_there_is_nothing_to_decide_a_new_order_is_refused(
    monkeypatch: pytest.MonkeyPatch, phase: Phase
) -> None:
    """One from before a restart may have been carried out: it is passed over."""
    fencing = SlowFencing()
    ordered = Ordered(monkeypatch, phase, fencing)
    ordered.side.order("old", VOUCHED, is_new=False)
    assert ordered.written == []
    ordered.side.order("new", VOUCHED, is_new=True)
    role = "source" if isinstance(phase, source.Phase) else "destination"
    why = f"the {role} is {phase}: there is nothing to decide"
    assert ordered.written == [ev.RunOrderRefused(order="new", message=why)]
    await ordered.until_done()
    assert (fencing.asked, ordered.told) == ([], [])


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("phase", MAY_BE_ORDERED)
async def test_a_role_is_told_of_an_order_once_the_log_has_the_proof(
    monkeypatch: pytest.MonkeyPatch, phase: Phase, is_new: bool
) -> None:
    fencing = SlowFencing()
    ordered = Ordered(monkeypatch, phase, fencing)
    ordered.side.order("o", ORDERED, is_new=is_new)
    await until(lambda: fencing.asked or ordered.told)
    assert (ordered.told, ordered.written) == ([], [])
    fencing.may_end.set()
    await until(lambda: ordered.written or ordered.told)
    assert ordered.told == []
    assert [type(event) for event in ordered.written] == [ev.HostFenced]
    ordered.stored.set_result(True)
    await ordered.until_done()
    assert ordered.told == [inp.PeerFenced(), RUN]


@pytest.mark.parametrize("phase", IN_DOUBT)
async def test_without_proof_a_role_hears_of_no_order(
    monkeypatch: pytest.MonkeyPatch, phase: Phase
) -> None:
    ordered = Ordered(monkeypatch, phase, NoFencing())
    ordered.side.order("o", ORDERED, is_new=True)
    await ordered.until_done()
    (refused,) = ordered.written
    assert isinstance(refused, ev.RunOrderRefused)
    assert refused.order == "o"
    assert "nothing proves" in refused.message
    assert ordered.told == []


@pytest.mark.parametrize("phase", IN_DOUBT)
async def test_a_proof_that_the_log_does_not_take_is_none(
    monkeypatch: pytest.MonkeyPatch, phase: Phase
) -> None:
    ordered = Ordered(monkeypatch, phase, NoFencing())
    ordered.stored.set_result(False)
    ordered.side.order("o", VOUCHED, is_new=True)
    await ordered.until_done()
    assert [type(event) for event in ordered.written] == [ev.HostFenced, ev.RunOrderRefused]
    assert ordered.told == []


@pytest.mark.parametrize("phase", IN_DOUBT)
@pytest.mark.parametrize(("order", "vouched_by"), [(ORDERED, ""), (VOUCHED, "ada@desk")])
async def test_whoever_orders_vouches_for_the_other_host_only_by_saying_so(
    monkeypatch: pytest.MonkeyPatch, phase: Phase, order: ev.RunOrdered, vouched_by: str
) -> None:
    fencing = SlowFencing()
    fencing.may_end.set()
    ordered = Ordered(monkeypatch, phase, fencing)
    ordered.stored.set_result(True)
    ordered.side.order("o", order, is_new=True)
    await ordered.until_done()
    assert fencing.asked == [vouched_by]


@pytest.mark.parametrize("phase", IN_DOUBT)
async def test_what_is_known_is_not_proven_again(
    monkeypatch: pytest.MonkeyPatch, phase: Phase
) -> None:
    fencing = SlowFencing()
    ordered = Ordered(monkeypatch, phase, fencing, is_peer_off=True)
    ordered.side.order("o", ORDERED, is_new=True)
    await ordered.until_done()
    assert (fencing.asked, ordered.written, ordered.told) == ([], [], [RUN])
