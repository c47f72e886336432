"""While a stun waits for the next message the loop polls: until it comes, and not for ever."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest

from godwit.host.role import AWAKE_NS_MAX, RoleRunner
from godwit_protocol import register as reg
from godwit_protocol.machine import MachineSpec
from godwit_protocol.roles import destination
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.destination_state import DestinationState
from orders import preparation

ORDERED = preparation(MachineSpec(name="m", guest="guests:Any", ram_bytes=4096))
STANDING = reg.RegisterView(reg.started("m", "host-1", None), 1)
PREPARED = inp.Prepared(address="link", port=1, token=b"", create_ns=1)
TURNS = 50


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One for each turn of the loop that polls: it gives the processor to whoever wants it."""
    seen: list[None] = []
    monkeypatch.setattr(os, "sched_yield", lambda: seen.append(None))
    return seen


@contextmanager
def waiting(*, stays_awake: bool, turn_ns: int) -> Iterator[RoleRunner[DestinationState]]:
    """A destination that waits for its machine; each look at its clock finds ``turn_ns`` gone."""
    ticks = count(0, turn_ns)
    runner: RoleRunner[DestinationState] = RoleRunner(
        destination, lambda _: None, lambda: next(ticks), stays_awake=stays_awake
    )
    running = asyncio.create_task(
        runner.run(*destination.begin(ORDERED, STANDING, migration="m1", now_ns=0))
    )
    yield runner
    running.cancel()


async def turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def test_it_polls_until_the_role_moves(polls: list[None]) -> None:
    with waiting(stays_awake=True, turn_ns=0) as runner:
        await turns()
        runner.await_next(lambda _: None, PREPARED)
        await turns()
        assert len(polls) >= TURNS - 1
        runner.tell(PREPARED)
        polls.clear()
        await turns()
        assert not polls


async def test_it_polls_for_so_long_and_no_longer(polls: list[None]) -> None:
    with waiting(stays_awake=True, turn_ns=AWAKE_NS_MAX // 10) as runner:
        await turns()
        runner.await_next(lambda _: None, PREPARED)
        await turns()
        assert 1 <= len(polls) <= 10


async def test_it_sleeps_where_that_is_wanted(polls: list[None]) -> None:
    with waiting(stays_awake=False, turn_ns=0) as runner:
        await turns()
        runner.await_next(lambda _: None, PREPARED)
        await turns()
        assert not polls
