"""Run a service: configuration, logs, health, the event log, signals and exit codes.

A service is ``async def main(context)``. It is cancelled on SIGTERM and SIGINT and gets
``STOP_S_MAX`` to end in an orderly way. What it raises becomes the process's exit code: a
``GodwitError`` is one clear line, anything else is a defect and shows its traceback.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final, NoReturn

import structlog

from godwit.metrics import definitions as metrics
from godwit.metrics.appends import Appends
from godwit.metrics.exposition import CONTENT_TYPE, Exposition
from godwit.metrics.facts import Facts
from godwit.metrics.figures import Figures, Reading
from godwit.runtime import config as configuration
from godwit.runtime import telemetry, values
from godwit.runtime.choices import LogFormat
from godwit.runtime.config import Config, Service
from godwit.runtime.health import Health, Page
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.observed_log import ObservedLog
from godwit.runtime.watching_log import INBOX_PREFIX
from godwit.tracing.opening import open_tracer
from godwit_protocol.errors import DeadlineError, GodwitError, UnreachableError

CONNECT_TRIES_MAX: Final = 30
CONNECT_TRY_S: Final = 2.0
CONNECT_WAIT_S: Final = 0.5
STOP_S_MAX: Final = 10.0
OPEN_FILES_MAX: Final = 1 << 20
METRICS_PATH: Final = "/metrics"
INTERRUPTED_STATUS: Final = 130
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_log: Final = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServiceContext:
    """What a service is given."""

    service: Service
    config: Config
    directory: Path
    """The service's own directory, not shared with another service."""
    log: NatsLog
    """The event log, connected; streams may not be there yet."""
    health: Health
    """``ready`` is for the service to set."""
    tasks: asyncio.TaskGroup
    """Background tasks: if one fails the service ends, and with the service they end."""
    figures: Figures = field(default_factory=Figures)
    """What the service counts, for its metrics."""


Main = Callable[[ServiceContext], Awaitable[None]]


class _FinishedError(Exception):
    """``main`` has returned: a task group ends its tasks for nothing less."""


def run_service(service: Service, main: Main, environ: Mapping[str, str] = os.environ) -> int:
    """Run ``main`` until it returns, fails, or the process is told to stop.

    Returns the exit status: 0 after an orderly stop, else the ``exit_code`` of what was raised. A
    one-shot job that is stopped before its end has failed.
    """
    try:
        config = configuration.load(service, environ)
    except GodwitError as error:
        telemetry.configure(service, logging.INFO, LogFormat.AUTO)
        return _report(error)
    telemetry.configure(service, config.log_level, config.log_format)
    _allow_open_files()
    host = _host(service, config)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner, telemetry.bound(host=host):
        stopped_status = INTERRUPTED_STATUS if service is Service.PROVISION else 0
        return runner.run(_until_told_to_stop(_serve(service, config, main), stopped_status))


def _allow_open_files() -> None:
    """As many as it will ever need: each region of each machine that is looked at is one, and the
    usual soft limit of 1,024 is there for programs that use ``select``. No more: programs that it
    starts get the same limit, and some look at each number below it. Containers allow 2^30.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, OPEN_FILES_MAX), hard))


def service_directory(service: Service, config: Config) -> Path:
    """Where a service keeps what is its own: beside its host's files, or under ``GODWIT_DIR``."""
    directory = config.directory / "services" / service
    match service:
        case Service.SOURCE_HOST | Service.DESTINATION_HOST:
            return config.host_directory / service
        case Service.COORDINATOR:
            return directory / config.coordinator_id
        case Service.GPU_STATE_TRACKER:
            return directory / config.tracker_id
        case _:
            return directory


def _host(service: Service, config: Config) -> str:
    return config.host if service in configuration.HOST_SERVICES else ""


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _until_told_to_stop(serving: Awaitable[None], stopped_status: int) -> int:
    """Return the exit status of ``serving``, which is cancelled by the first signal."""
    task = asyncio.ensure_future(serving)
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, told.set)
    waiting = asyncio.create_task(told.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if told.is_set():
        _log.info("stopping")
        await _stop(task)
    return _outcome(task, stopped_status)


async def _stop(task: asyncio.Future[None]) -> None:
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=STOP_S_MAX)
    if not done:
        # A task that swallows its cancellation would also hang the loop's own end.
        os._exit(_report(DeadlineError(f"the service did not stop within {STOP_S_MAX:g} s")))


def _outcome(task: asyncio.Future[None], stopped_status: int) -> int:
    if task.cancelled():
        _log.info("stopped")
        return stopped_status
    error = task.exception()
    return 0 if error is None else _report(error)


def _report(error: BaseException) -> int:
    """Log why the process ends, and return its exit status."""
    error = _cause(error)
    if isinstance(error, GodwitError):
        hint = {"hint": error.hint} if error.hint else {}
        _log.critical(error.message, code=error.code, **hint)
        return error.exit_code
    _log.critical("defect", exc_info=error)
    return GodwitError.exit_code


def _cause(error: BaseException) -> BaseException:
    """The most telling exception of a group: a typed one before any other."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [_cause(inner) for inner in error.exceptions]
    return next((cause for cause in causes if isinstance(cause, GodwitError)), causes[0])


async def _serve(service: Service, config: Config, main: Main) -> None:
    gc.freeze()  # What was imported stays: no collection need look at it again, least in a stun.
    health, figures = Health(service), Figures(service)
    directory = service_directory(service, config)
    async with _health_served(health, config, directory), _connected(service, config) as log:
        health.add_check("event_log", lambda: "" if log.is_connected else "not connected")
        _show(figures, health, log)
        try:
            async with _observed(log, service, config, figures), asyncio.TaskGroup() as tasks:
                tasks.create_task(_watch(log))
                context = ServiceContext(service, config, directory, log, health, tasks, figures)
                await _finish(main, context)
        except* _FinishedError:
            _log.info("finished")


async def _finish(main: Main, context: ServiceContext) -> NoReturn:
    await main(context)
    raise _FinishedError


@contextlib.asynccontextmanager
async def _observed(
    log: ObservedLog, service: Service, config: Config, figures: Figures
) -> AsyncIterator[None]:
    """Count what the service appends, and make spans of it if that is wanted."""
    learners = [Facts(figures).learn]
    is_traced = service in configuration.WRITERS and config.tracing
    tracer = open_tracer(service, _host(service, config)) if is_traced else None
    if tracer is not None:
        log.is_traced = True
        learners.append(tracer.learn)
    appends = log.observer = Appends(figures, *learners)
    try:
        yield
    finally:
        if tracer is not None:
            appends.learn_rest()
            await tracer.close()


def _show(figures: Figures, health: Health, log: NatsLog) -> None:
    """Serve the figures, and among them what every service has."""
    running = (version("godwit"),)

    def read() -> Iterator[Reading]:
        yield Reading(metrics.SERVICE_INFO, 1, running)
        yield Reading(metrics.SERVICE_READY, health.is_well)
        yield Reading(metrics.LOG_CONNECTED, log.is_connected)

    if metrics.SERVICE_INFO in figures.metrics:
        figures.ask(read)
    health.add_page(METRICS_PATH, Page(CONTENT_TYPE, Exposition(figures).pieces))


@contextlib.asynccontextmanager
async def _health_served(health: Health, config: Config, directory: Path) -> AsyncIterator[None]:
    if health.service == Service.PROVISION:
        yield
        return
    port = await health.start(config.health_host, config.health_port, directory)
    _log.info("health endpoint", address=config.health_host, port=port)
    try:
        yield
    finally:
        await health.close()


@contextlib.asynccontextmanager
async def _connected(service: Service, config: Config) -> AsyncIterator[ObservedLog]:
    log = await connect(service, config)
    try:
        yield log
    finally:
        await log.close()


async def connect(service: Service, config: Config) -> ObservedLog:
    """Connect to the event log, waiting for it to come up.

    Raises ``UnreachableError`` after ``CONNECT_TRIES_MAX`` tries.
    """
    name = "-".join(filter(None, (service, _host(service, config))))
    # The monitor's user may be answered nowhere else.
    inbox_prefix = INBOX_PREFIX if service is Service.MONITOR else "_INBOX"
    once = partial(
        ObservedLog.connect,
        config.nats_url,
        name=name,
        timeout_s=CONNECT_TRY_S,
        inbox_prefix=inbox_prefix,
    )
    for attempt in range(1, CONNECT_TRIES_MAX):
        try:
            return await once()
        except UnreachableError as error:
            shown = values.without_credentials(config.nats_url)
            _log.warning("waiting for the event log", url=shown, tried=attempt)
            _log.debug("event log unreachable", error=error.message)
            await asyncio.sleep(CONNECT_WAIT_S)
    return await once()


async def _watch(log: NatsLog) -> None:
    await log.closed()
    raise UnreachableError(
        "the connection to the event log was closed for good", hint="look at the NATS server's log"
    )
