"""The account that the guest client keeps, against a guest that the test plays on the real log."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from godwit.cli.guest_client import REQUEST_HEADER, GuestClient
from godwit.runtime.clock import SystemClock
from godwit.runtime.nats_log import NatsLog
from godwit_protocol import subjects
from godwit_protocol.errors import DeadlineError

ECHO_S_MAX = 20.0


async def reply(log: NatsLog, machine: str, request: str, data: bytes) -> None:
    await log.append(
        subjects.guest_reply(machine),
        data,
        message_id=SystemClock().new_id(),
        headers={REQUEST_HEADER: request},
    )


@asynccontextmanager
async def echo(log: NatsLog, machine: str, requests: int, *, times: int = 1) -> AsyncIterator[None]:
    """A guest that answers so many requests, each so many times with its own payload, reversed."""

    async def serve() -> None:
        left = requests
        async for stored in log.tail((subjects.guest_request(machine),)):
            for _ in range(times):
                await reply(log, machine, stored.headers["Nats-Msg-Id"], stored.data[::-1])
            left -= 1
            if not left:
                return

    async with asyncio.timeout(ECHO_S_MAX), asyncio.TaskGroup() as tasks:
        tasks.create_task(serve())
        yield


async def test_many_questions_at_once_each_get_their_own_answer(
    log: NatsLog, unique_name: str
) -> None:
    payloads = [f"question {number}".encode() for number in range(50)]
    async with echo(log, unique_name, 50), GuestClient(log, unique_name) as client:
        answers = await asyncio.gather(*(client.ask(payload) for payload in payloads))
    assert answers == [payload[::-1] for payload in payloads]
    assert (client.asked, client.answered, client.lost, client.doubled) == (50, 50, 0, 0)


async def test_an_exchange_tells_the_order_of_the_questions(log: NatsLog, unique_name: str) -> None:
    async with echo(log, unique_name, 2), GuestClient(log, unique_name) as client:
        first = await client.exchange(b"ab")
        second = await client.exchange(b"cd")
    assert (first.reply, second.reply) == (b"ba", b"dc")
    assert first.sequence < second.sequence
    assert first.latency_ns > 0


async def test_answers_from_before_are_not_ours(log: NatsLog, unique_name: str) -> None:
    await reply(log, unique_name, "somebody-elses", b"old")
    async with echo(log, unique_name, 1), GuestClient(log, unique_name) as client:
        assert await client.ask(b"ab") == b"ba"
    assert (client.answered, client.doubled) == (1, 0)


async def test_a_doubled_answer_is_counted(log: NatsLog, unique_name: str) -> None:
    async with echo(log, unique_name, 2, times=2), GuestClient(log, unique_name) as client:
        await client.ask(b"one")
        # The second answer to it stands before the first one to this.
        await client.ask(b"two")
        assert client.doubled >= 1
        assert client.answered == 2


async def test_a_question_without_an_answer_is_lost_until_it_comes(
    log: NatsLog, unique_name: str
) -> None:
    async with GuestClient(log, unique_name) as client:
        with pytest.raises(DeadlineError, match="no reply"):
            await client.ask(b"late", timeout_s=0.3)
        assert client.lost == 1
        async with echo(log, unique_name, 2):
            await client.ask(b"in time")
        assert client.lost == 0


async def test_the_longest_gap_is_the_wait_with_a_question_open(
    log: NatsLog, unique_name: str
) -> None:
    async with GuestClient(log, unique_name) as client:
        began_ns = time.monotonic_ns()
        asking = asyncio.create_task(client.ask(b"slow"))
        async for stored in log.tail((subjects.guest_request(unique_name),)):
            await asyncio.sleep(0.05)  # the guest's own slowness, which is what is measured
            await reply(log, unique_name, stored.headers["Nats-Msg-Id"], b"x")
            break
        await asking
        waited_ns = time.monotonic_ns() - began_ns
        assert 50_000_000 <= client.take_longest_gap_ns() <= waited_ns
        assert client.take_longest_gap_ns() == 0
