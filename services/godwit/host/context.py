"""What a host service is given at its start."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Final

import structlog

from godwit.hypervisor.native.driver import NativeHypervisor
from godwit.hypervisor.port import Hypervisor
from godwit.metrics import definitions as metrics
from godwit.metrics.figures import Reading
from godwit.runtime.clock import Clock, SystemClock
from godwit.runtime.config import Config
from godwit.runtime.event_log import EventLog
from godwit.runtime.outbox import Outbox
from godwit.runtime.service import ServiceContext
from godwit.runtime.signing import Signer, open_signer
from godwit.transfer.connection import open_control
from godwit.transfer.port import Dial
from godwit_protocol.errors import DeadlineError

from .disk import Disk, HostDirectory
from .fencing import Fencing, fencing_of
from .registers import Registers

FLUSH_S_MAX: Final = 3.0
LAG_S_MAX: Final = 30.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HostContext:
    """One host, as one of its services sees it."""

    name: str
    config: Config
    clock: Clock
    log: EventLog
    outbox: Outbox
    registers: Registers
    hypervisor: Hypervisor
    disk: Disk
    dial: Dial
    fencing: Fencing
    signer: Signer | None = None
    """Signs what this host has written of a migration, at its end. None: nothing does."""


@contextlib.asynccontextmanager
async def open_host(context: ServiceContext) -> AsyncIterator[HostContext]:
    """The host that a service was started for; at the end what it wrote is flushed to the log."""
    config = context.config
    outbox = Outbox(context.log)
    disk = HostDirectory(config.host_directory)
    host = HostContext(
        name=config.host,
        config=config,
        clock=SystemClock(),
        log=context.log,
        outbox=outbox,
        registers=Registers(context.log, disk.marks()),
        hypervisor=NativeHypervisor(config.host_directory, config.nats_url, config.dirty_tracking),
        disk=disk,
        dial=open_control,
        fencing=fencing_of(config.fence_command),
        signer=open_signer(config.signing_key),
    )
    context.health.add_check("outbox", lambda: _lag(outbox))
    context.figures.ask(lambda: _outbox_figures(outbox))
    try:
        yield host
    finally:
        try:
            await outbox.flush(FLUSH_S_MAX)
        except DeadlineError as error:  # the journals keep it, and the next life goes on
            _log.warning("outbox_not_flushed", error=error.message)
        await outbox.close()


def _outbox_figures(outbox: Outbox) -> Iterator[Reading]:
    yield Reading(metrics.OUTBOX_DEPTH, outbox.depth)
    yield Reading(metrics.OUTBOX_AGE_SECONDS, outbox.oldest_age_s)
    yield Reading(metrics.OUTBOX_REFUSED, outbox.refused)


def _lag(outbox: Outbox) -> str:
    late = outbox.oldest_age_s > LAG_S_MAX
    return f"{outbox.depth} events wait for {outbox.oldest_age_s:.0f} s" if late else ""
