"""Running a role: what its core refuses, and what an operation that failed leaves behind."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest

from godwit.host.role import RoleRunner
from godwit_protocol.errors import (
    GodwitError,
    LocalProtocolError,
    RemoteProtocolError,
    UnreachableError,
)
from godwit_protocol.events.migration import AbortReason
from godwit_protocol.roles import effects as fx
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles import source
from godwit_protocol.roles.source_state import SourceState


class View:
    """Of a machine's memory."""


@contextmanager
def no_collector() -> Iterator[None]:
    """Only what nobody holds is freed, and no cycle."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def send(view: View) -> None:
    """As a thread of the data plane does that names the first failure."""
    failure = UnreachableError(f"{type(view).__name__}: the connection broke")
    raise failure


@pytest.mark.parametrize("kind", [UnreachableError, TimeoutError, ValueError])
async def test_an_operation_that_failed_holds_no_memory(kind: type[Exception]) -> None:
    held: list[weakref.ref[View]] = []
    told: list[GodwitError] = []

    async def operation() -> None:
        view = View()
        held.append(weakref.ref(view))
        if kind is UnreachableError:
            await asyncio.to_thread(send, view)
        failure = kind("it failed")  # it names itself: a cycle
        raise failure

    core: ModuleType = source
    runner: RoleRunner[SourceState] = RoleRunner(core, lambda _: None, lambda: 0)
    with no_collector():
        await runner.start(operation(), told.append)
        assert len(told) == len(held) == 1
        assert held[0]() is None


WRONG = inp.PeerStaged(heard_ns=1)
LAST = inp.Resumed(first_step_ns=1)


class Refusing:
    """A core that takes anything but what is ``WRONG``, until the ``LAST``. Its state: how much."""

    def __init__(self, refusal: GodwitError) -> None:
        self.heard: list[inp.Input] = []
        self._refusal = refusal

    def step(self, state: int, given: inp.Input, _now_ns: int) -> tuple[int, tuple[fx.Effect, ...]]:
        self.heard.append(given)
        if given == WRONG:
            raise self._refusal
        is_last = given == LAST
        return state + 1, (fx.Finish(reason=AbortReason.NONE),) if is_last else (fx.CloseLink(),)

    def next_deadline_ns(self, _state: int) -> None:
        return None


@pytest.mark.parametrize(
    ("refusal", "comes_of_it"),
    [
        (
            RemoteProtocolError("it was staged twice"),
            (inp.LinkLost(message="it was staged twice"),),
        ),
        (LocalProtocolError("nothing can be staged now"), ()),
    ],
)
async def test_a_peer_that_breaks_the_protocol_is_lost_and_what_we_break_changes_nothing(
    refusal: GodwitError, comes_of_it: tuple[inp.Input, ...]
) -> None:
    """In either case the role goes on: nothing that it is told may end the service."""
    core, done = Refusing(refusal), list[fx.Effect]()
    runner: RoleRunner[int] = RoleRunner(core, done.append, lambda: 0)
    running = asyncio.create_task(runner.run(0, ()))
    await asyncio.sleep(0)
    runner.tell(WRONG)
    assert core.heard == [WRONG, *comes_of_it]
    assert (runner.state, done) == (len(comes_of_it), [fx.CloseLink()] * len(comes_of_it))
    assert not runner.is_over
    runner.tell(LAST)
    assert await running == len(comes_of_it) + 1
