"""Running a role: what an operation that failed leaves behind."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest

from godwit.host.role import RoleRunner
from godwit_protocol.errors import GodwitError, UnreachableError
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
