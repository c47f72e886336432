"""Faults that no single cell of the matrix has: more than one, or at a place of their own."""

from __future__ import annotations

import signal

import aftermath
import pytest
from arena import LIMITS, REACHED_S_MAX, Arena, ViolatedError, send, until
from steps import step

from godwit.cli.guest_client import REQUEST_HEADER
from godwit_protocol import subjects
from godwit_protocol.events.migration import Outcome

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]


async def test_a_machine_that_came_back_outlives_its_old_source(arena: Arena) -> None:
    """The source is down from RELEASED on, and finds the machine back when it is started again."""
    subject = await arena.machine()
    old = await arena.owner()
    new = arena.other(old)
    is_reached = arena.plan(old, step("s13"))
    there = await arena.operations.request(subject.name, new, LIMITS)
    await until(is_reached, REACHED_S_MAX, "s13")
    await arena.cluster.kill(f"{old}-source_host")
    assert await aftermath.outcome(arena, there) is Outcome.COMPLETED
    back = await arena.operations.request(subject.name, old, LIMITS)
    assert await aftermath.outcome(arena, back) is Outcome.COMPLETED
    await arena.cluster.restart(f"{old}-source_host")
    assert await aftermath.check(arena, back)
    assert await arena.owner() == old


async def test_two_services_die_at_once_after_go(arena: Arena) -> None:
    """Both hosts' services, just when the destination has heard GO."""
    subject = await arena.machine()
    source = await arena.owner()
    destination = arena.other(source)
    is_reached = arena.plan(destination, step("d8"))
    migration = await arena.operations.request(subject.name, destination, LIMITS)
    await until(is_reached, REACHED_S_MAX, "d8")
    services = (f"{source}-source_host", f"{destination}-destination_host")
    for service in services:
        await arena.cluster.kill(service)
    for service in services:
        await arena.cluster.restart(service)
    await aftermath.ended(arena, migration)
    assert await aftermath.check(arena, migration)


async def test_a_source_that_slept_after_go_does_not_run_what_has_moved(arena: Arena) -> None:
    """It is stopped where ACTIVE comes, until the coordinator waits no more for its RELEASED."""
    subject = await arena.machine()
    source = await arena.owner()
    destination = arena.other(source)
    is_reached = arena.plan(source, step("s11"))
    migration = await arena.operations.request(subject.name, destination, LIMITS)
    await until(is_reached, REACHED_S_MAX, "s11")
    vmm = arena.vmm_pid(source)
    assert vmm is not None
    send(vmm, signal.SIGSTOP)
    assert await aftermath.outcome(arena, migration) is Outcome.COMPLETED
    send(vmm, signal.SIGCONT)
    send(arena.cluster.pid(f"{source}-source_host"), signal.SIGCONT)
    assert await aftermath.check(arena, migration)
    assert await arena.owner() == destination


async def test_a_doubled_reply_is_seen_of_a_machine_that_died_too(arena: Arena) -> None:
    """The check itself: nothing is wrong but a second reply, to a question that was found to have
    one reply after an earlier migration.
    """
    subject = await arena.machine()
    there = arena.other(await arena.owner())
    before = await arena.operations.request(subject.name, there, LIMITS)
    assert await aftermath.outcome(arena, before) is Outcome.COMPLETED
    assert await aftermath.check(arena, before)
    replies = subjects.guest_reply(subject.name)
    reply = await anext(aiter(arena.operations.log.read([replies])))
    source = await arena.owner()
    is_reached = arena.plan(source, step("s5"))
    migration = await arena.operations.request(subject.name, arena.other(source), LIMITS)
    await until(is_reached, REACHED_S_MAX, "s5")
    vmm = arena.vmm_pid(source)
    assert vmm is not None
    send(vmm, signal.SIGKILL)
    send(arena.pid(f"{source}-source_host"), signal.SIGCONT)
    await aftermath.ended(arena, migration)
    assert not await aftermath.check(arena, migration)
    headers = {REQUEST_HEADER: reply.headers[REQUEST_HEADER]}
    await arena.operations.log.append(
        replies, reply.data, message_id=f"{subject.name}-again", headers=headers
    )
    with pytest.raises(ViolatedError, match="has 2 replies"):
        await aftermath.check(arena, migration)
    await arena.bury_machine()
    with pytest.raises(ViolatedError, match="has 2 replies"):
        await aftermath.look_once_more(arena, subject)
