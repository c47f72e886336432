"""Running a role: what its core refuses, and what an operation that failed leaves behind."""

from __future__ import annotations

import asyncio
import gc
import inspect
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

import pytest

from godwit.host.role import INPUTS_MAX, RoleRunner
from godwit.runtime.journal import JournalFailedError
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


class Scripted:
    """A core that answers each input with what it is given for it. Its state: how much it took."""

    def __init__(self, *effects: fx.Effect) -> None:
        self.heard: list[inp.Input] = []
        self.effects = effects
        self.listen: Callable[[], object] = lambda: None

    def step(self, state: int, given: inp.Input, _now_ns: int) -> tuple[int, tuple[fx.Effect, ...]]:
        self.heard.append(given)
        self.listen()
        return state + 1, self.effects

    def next_deadline_ns(self, _state: int) -> None:
        return None


FINISH = fx.Finish(reason=AbortReason.NONE)


def runner_of(core: Scripted, perform: Callable[[fx.Effect], None]) -> RoleRunner[int]:
    return RoleRunner(core, perform, lambda: 0)


async def started(runner: RoleRunner[int]) -> asyncio.Task[int]:
    running = asyncio.create_task(runner.run(0, ()))
    await asyncio.sleep(0)
    return running


async def test_a_role_that_failed_takes_no_step_more() -> None:
    """Its journal did not take what the next step would stand on."""
    core = Scripted(fx.CloseLink())

    def perform(_: fx.Effect) -> None:
        raise JournalFailedError("no space left on device")

    runner = runner_of(core, perform)
    running = await started(runner)
    for _ in range(INPUTS_MAX + 1):
        runner.tell(LAST)
    with pytest.raises(JournalFailedError):
        await running
    runner.tell(LAST)
    runner.rehearse(lambda _: None, LAST)
    assert core.heard == [LAST]


async def test_a_role_that_is_over_takes_nothing_more_and_forgets_what_it_is_told() -> None:
    """Neither what waits behind the last input, nor what comes after it."""
    core = Scripted(FINISH, fx.CloseLink())
    done: list[fx.Effect] = []
    runner = runner_of(core, done.append)
    core.listen = lambda: runner.tell(WRONG)
    running = await started(runner)
    runner.tell(LAST)
    for _ in range(INPUTS_MAX + 1):
        runner.tell(LAST)
    runner.rehearse(done.append, LAST)
    assert runner.is_over
    assert await running == 1
    assert core.heard == [LAST]
    assert done == [FINISH, fx.CloseLink()]


async def test_nothing_is_rehearsed_before_a_role_begins() -> None:
    core, shown = Scripted(fx.CloseLink()), list[fx.Effect]()
    runner = runner_of(core, shown.append)
    runner.rehearse(shown.append, LAST)
    assert (core.heard, shown) == ([], [])
    runner.state = 0
    runner.rehearse(shown.append, LAST)
    assert (core.heard, shown) == ([LAST], [fx.CloseLink()])


async def test_steps_are_taken_in_the_context_of_the_run_whoever_tells() -> None:
    """By it every line of the log says which migration it is of."""
    migration: ContextVar[str] = ContextVar("migration", default="")
    seen: list[str] = []
    core = Scripted(FINISH)
    core.listen = lambda: seen.append(migration.get())
    runner = runner_of(core, lambda _: None)
    before = migration.set("ours")
    running = await started(runner)
    migration.reset(before)
    runner.tell(LAST)
    await running
    assert seen == ["ours"]


async def test_an_operation_that_is_under_way_at_the_end_is_waited_for() -> None:
    """Such as the one that sends what was said last; its result has nobody to go to."""
    core = Scripted(FINISH)
    runner = runner_of(core, lambda _: None)
    running = await started(runner)
    goes_on, ended = asyncio.Event(), list[str]()

    async def operation() -> inp.Input:
        await goes_on.wait()
        ended.append("ended")
        return WRONG

    runner.start(operation(), lambda _: None)
    runner.tell(LAST)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not running.done()
    goes_on.set()
    await running
    assert ended == ["ended"]
    assert core.heard == [LAST]


async def test_a_role_that_is_given_up_leaves_no_operation_behind() -> None:
    runner = runner_of(Scripted(), lambda _: None)
    running = await started(runner)
    begun = runner.start(asyncio.sleep(3600), lambda _: None)
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait({running})
    await asyncio.wait({begun})
    assert begun.cancelled()


async def test_an_operation_that_was_never_begun_is_closed_and_one_that_ended_forgotten() -> None:
    runner = runner_of(Scripted(), lambda _: None)
    operation = asyncio.sleep(0)
    task = runner.start(operation, lambda _: None)
    assert runner._tasks == {task}
    task.cancel()
    await asyncio.wait({task})
    await asyncio.sleep(0)
    assert inspect.getcoroutinestate(operation) == inspect.CORO_CLOSED
    assert runner._tasks == set()
