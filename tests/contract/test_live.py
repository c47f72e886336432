"""Announcing and listening: live, bounded, and nobody relies on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from nats.aio.client import Client

from godwit.runtime.nats_log import LISTEN_MESSAGES_MAX, NatsLog
from godwit.runtime.nats_server import NatsServer
from godwit_protocol import subjects


async def announce_until_heard(
    log: NatsLog, subject: str, heard: AsyncIterator[tuple[str, bytes]]
) -> tuple[str, bytes]:
    """A listener hears from some moment on that only its first message proves."""
    first = asyncio.ensure_future(anext(heard))
    async with asyncio.timeout(10):
        while not first.done():
            await log.announce(subject, b"hello")
            await asyncio.wait({first}, timeout=0.01)
    return await first


async def test_what_is_announced_is_heard_on_any_of_the_subjects(
    log: NatsLog, unique_name: str
) -> None:
    subject = subjects.telemetry("migration", unique_name, "progress")
    other = subjects.telemetry("machine", unique_name, "progress")
    heard = log.listen([subject, subjects.telemetry("machine", unique_name, "*")])
    assert await announce_until_heard(log, other, heard) == (other, b"hello")
    assert await announce_until_heard(log, subject, heard) in {
        (subject, b"hello"),
        (other, b"hello"),
    }


async def test_a_slow_listener_loses_the_oldest(log: NatsLog, unique_name: str) -> None:
    subject = subjects.telemetry("machine", unique_name, "progress")
    heard = log.listen([subject])
    await announce_until_heard(log, subject, heard)
    count = 3 * LISTEN_MESSAGES_MAX
    for n in range(count):
        await log.announce(subject, b"%d" % n)
    await log.last(subject)  # whatever was announced before this answer has been received
    async with asyncio.timeout(10):
        received = [(await anext(heard))[1] for _ in range(LISTEN_MESSAGES_MAX)]
    assert received == [b"%d" % n for n in range(count - LISTEN_MESSAGES_MAX, count)]


async def test_announcing_without_a_server_is_harmless_and_listening_survives(
    own_server: NatsServer, own_log: NatsLog
) -> None:
    subject = subjects.telemetry("machine", "m", "progress")
    heard = own_log.listen([subject])
    await announce_until_heard(own_log, subject, heard)
    await own_server.stop()
    await own_log.announce(subject, b"lost")
    await own_server.restart()
    assert await announce_until_heard(own_log, subject, heard) == (subject, b"hello")


async def test_a_cancellation_that_the_client_forgets_is_not_forgotten(
    log: NatsLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_published = asyncio.Event()

    async def publish(*_: object, **__: object) -> None:
        is_published.set()
        with suppress(asyncio.CancelledError):  # as the client does where it flushes
            await asyncio.Event().wait()

    monkeypatch.setattr(Client, "publish", publish)
    announcing = asyncio.create_task(log.announce(subjects.telemetry("machine", "m", "x"), b""))
    await is_published.wait()
    announcing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await announcing
