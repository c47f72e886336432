"""A machine's own thread: what it runs, in which order, and what it holds."""

import contextvars
import gc
import threading
import weakref
from concurrent.futures import thread

import pytest

from godwit.hypervisor.native.own_thread import OwnThread

WAIT_S = 10.0


class Work:
    """Whose methods are run."""

    def act(self):
        return threading.current_thread().name

    def fail(self):
        raise KeyError("a defect")


async def run_in(own):
    """Something that nobody holds once it was run."""
    work = Work()
    assert (await own.run(work.act)).startswith("own")
    return weakref.ref(work)


async def end_with(own):
    work = Work()
    await own.end(work.act)
    return weakref.ref(work)


@pytest.mark.parametrize("use", [run_in, end_with])
async def test_it_holds_nothing_of_what_it_has_told(monkeypatch, use):
    """Not even as long as it takes to come to its own end."""
    told, run = threading.Event(), thread._WorkItem.run

    def run_on(*given):
        run(*given)
        assert told.wait(WAIT_S)

    own = OwnThread("own")
    await own.run(int)  # which it had begun with is over
    monkeypatch.setattr(thread._WorkItem, "run", run_on)
    gc.disable()
    try:
        left = await use(own)
        assert left() is None
    finally:
        gc.enable()
        told.set()
        monkeypatch.undo()
        await own.end(int)


async def test_errors_and_the_callers_context_pass():
    own, name = OwnThread("own"), contextvars.ContextVar("name")
    name.set("a migration")
    assert await own.run(name.get) == "a migration"
    with pytest.raises(KeyError):
        await own.run(Work().fail)
    await own.end(int)
