"""A VMM that cannot be ended at once is tried again, to an end."""

from __future__ import annotations

import asyncio

import pytest

from godwit.host import freeing
from godwit_protocol.errors import (
    ConflictError,
    DeadlineError,
    GodwitError,
    RemoteProtocolError,
    UnreachableError,
)


@pytest.fixture(autouse=True)
def no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freeing, "PACE_S", 0.0)


async def test_whatever_fails_is_tried_again() -> None:
    failures: list[GodwitError] = [
        kind("not now")
        for kind in (DeadlineError, UnreachableError, ConflictError, RemoteProtocolError)
    ]

    async def end() -> None:
        if failures:
            raise failures.pop()

    await freeing.freed(end)
    assert not failures


async def test_it_is_not_tried_for_ever() -> None:
    tries = 0

    async def end() -> None:
        nonlocal tries
        tries += 1
        raise DeadlineError("it does not die")

    with pytest.raises(DeadlineError, match="could not be ended"):
        await freeing.freed(end)
    assert tries == freeing.TRIES_MAX


async def test_between_two_tries_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    async def sleep(_: float) -> None:
        order.append("waited")

    async def end() -> None:
        order.append("tried")
        if len(order) < 4:
            raise DeadlineError("not now")

    monkeypatch.setattr(asyncio, "sleep", sleep)
    await freeing.freed(end)
    assert order == ["tried", "waited", "tried", "waited", "tried"]
