"""A service to run as a process; the first argument says what it does once it is up."""

from __future__ import annotations

import asyncio
import resource
import sys
from uuid import uuid4

from godwit.runtime.config import Service
from godwit.runtime.nats_server import MAX_PAYLOAD_BYTES
from godwit.runtime.service import ServiceContext, run_service
from godwit_protocol import subjects
from godwit_protocol.errors import RefusedError


async def serve(context: ServiceContext) -> None:
    """Say that it began, and at its end that it ended."""
    context.health.ready = True
    try:
        await tell(context, "began")
        await asyncio.Event().wait()
    finally:
        await tell(context, "ended")


async def refuse(context: ServiceContext) -> None:
    raise RefusedError("no room on host-2", hint="free some")


async def break_down(context: ServiceContext) -> None:
    raise ValueError("a defect")


async def finish(context: ServiceContext) -> None:
    """Background tasks must not keep a service alive that has finished."""
    context.tasks.create_task(asyncio.Event().wait())


async def count_open_files(context: ServiceContext) -> None:
    """Refuses, so that what it has to say is in its last line."""
    raise RefusedError("{} of {}".format(*resource.getrlimit(resource.RLIMIT_NOFILE)))


async def lose_a_task(context: ServiceContext) -> None:
    context.tasks.create_task(refuse(context))
    await asyncio.Event().wait()


async def be_thrown_out(context: ServiceContext) -> None:
    """The client does not count headers; the server does, and ends the connection for good."""
    client = context.log._client
    await client.publish("anything", bytes(MAX_PAYLOAD_BYTES), headers={"Key": "value"})
    await asyncio.Event().wait()


async def hang_on(context: ServiceContext) -> None:
    context.health.ready = True
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


async def tell(context: ServiceContext, event: str) -> None:
    subject = subjects.machine(context.config.coordinator_id, "probe", event)
    await context.log.append(subject, b"", message_id=uuid4().hex)


ACTS = {
    act.__name__: act
    for act in (
        *(serve, refuse, break_down, count_open_files, finish),
        *(lose_a_task, be_thrown_out, hang_on),
    )
}

if __name__ == "__main__":
    from godwit.runtime import service

    service.STOP_S_MAX = 1.0  # type: ignore[misc]
    sys.exit(run_service(Service.COORDINATOR, ACTS[sys.argv[1]]))
