"""One replica of the coordinator: every migration that has not ended has its conductor.

Knows the log's order and which migrations are open, and nothing of what is decided about them. It
keeps nothing that the log does not hold; one that dies is replaced by starting another.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from godwit.catalogue.loading import load as load_catalogue
from godwit.coordinator.beginnings import Beginnings
from godwit.coordinator.claims import Claims
from godwit.coordinator.conductor import Conductor
from godwit.coordinator.estimates import Estimates
from godwit.coordinator.last_signature import LastSignatures
from godwit.coordinator.links import LookAtLink, is_alive, look_at_link
from godwit.coordinator.losses import Losses
from godwit.host.fencing import Fencing, NoFencing, fencing_of
from godwit.metrics.migrations import Migrations
from godwit.runtime.clock import Clock, SystemClock
from godwit.runtime.event_log import EventLog, LogFullError
from godwit.runtime.health import Health
from godwit.runtime.lane import new_life
from godwit.runtime.patience import patiently
from godwit.runtime.service import ServiceContext
from godwit.runtime.signing import Signer, open_signer
from godwit_protocol import codec, subjects
from godwit_protocol.catalogue import Catalogue
from godwit_protocol.errors import CorruptError, GodwitError, UnreachableError
from godwit_protocol.estimation.admission import AdmissionPolicy
from godwit_protocol.events import Recorded
from godwit_protocol.events.migration import MigrationEnded, MigrationRequested
from godwit_protocol.stored import Stored

OPEN_MAX: Final = 10_000
"""Migrations that one replica conducts at a time; of more, it leaves the rest to its next start."""

_log: Final = structlog.get_logger(__name__)


async def main(context: ServiceContext) -> None:
    """The service's process."""
    name = context.config.coordinator_id
    site = context.config.catalogue_file
    await run(
        context.log,
        SystemClock(),
        name,
        context.tasks,
        context.health,
        site_catalogue=site,
        admission=context.config.admission,
        signer=open_signer(context.config.signing_key),
        migrations=Migrations(context.figures, name),
        fencing=fencing_of(context.config.fence_command),
    )


async def run(
    log: EventLog,
    clock: Clock,
    name: str,
    tasks: asyncio.TaskGroup,
    health: Health,
    *,
    site_catalogue: Path | None = None,
    admission: AdmissionPolicy | None = None,
    signer: Signer | None = None,
    migrations: Migrations | None = None,
    fencing: Fencing | None = None,
) -> None:
    """Fold the history, then follow the log until cancelled. ``admission`` None: no estimates;
    ``signer`` None: nothing is signed. ``migrations`` is shown every event, for the metrics.
    ``fencing`` None: the operator is asked.

    Raises ``CatalogueFileError`` if ``site_catalogue`` cannot be used.
    """
    estimates = None if admission is None else Estimates(log, admission)
    links = partial(look_at_link, log, clock)
    losses = Losses(log, fencing or NoFencing(), partial(is_alive, log, clock))
    catalogue = load_catalogue(site_catalogue)
    desk = Desk(
        log,
        clock,
        name,
        tasks,
        catalogue,
        links,
        losses,
        estimates,
        signer,
        migrations,
        Beginnings(log, clock),
    )
    await serve(desk, log, health)


async def serve(desk: Desk, log: EventLog, health: Health) -> None:
    """Let the desk learn the history, then all that comes, until cancelled."""
    filters = subjects.whole_migration("*")
    last_sequence = await desk.find_beginning()
    async for stored in log.read(filters, after_sequence=last_sequence):
        desk.learn(stored)
        last_sequence = stored.sequence
    await desk.release_claims()
    desk.begin()
    health.ready = True
    _log.info("ready", coordinator=desk.name, open=desk.open)
    async for stored in log.tail(filters, after_sequence=last_sequence):
        desk.learn(stored)


class Desk:
    """The open migrations. Until ``begin``, what is learned is history and nothing is done."""

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        name: str,
        tasks: asyncio.TaskGroup,
        catalogue: Catalogue,
        look_at_link: LookAtLink,
        losses: Losses,
        estimates: Estimates | None = None,
        signer: Signer | None = None,
        migrations: Migrations | None = None,
        beginnings: Beginnings | None = None,
    ) -> None:
        self.name = name
        self._life = new_life(clock)
        self._event_log = log
        self._clock = clock
        self._tasks = tasks
        self._catalogue = catalogue
        self._look_at_link = look_at_link
        self._losses = losses
        self._estimates = estimates
        self._signatures = (
            None if signer is None else LastSignatures(log, clock, name, self._life, signer, tasks)
        )
        self._migrations = migrations
        self._beginnings = beginnings
        self._conductors: dict[str, Conductor] = {}
        self._begun = False

    @property
    def open(self) -> int:
        """How many migrations have not ended."""
        return len(self._conductors)

    async def find_beginning(self) -> int:
        """After which place of the log its history must be learned; 0: all of it.

        Raises ``UnreachableError``.
        """
        return 0 if self._beginnings is None else await self._beginnings.find()

    def learn(self, stored: Stored) -> None:
        """Take the next event of any migration. One that cannot be read is passed over."""
        try:
            recorded = codec.decode(stored.data, stored.sequence)
        except CorruptError as error:
            _log.error("unreadable event", subject=stored.subject, error=error.message)
            return
        migration = recorded.envelope.migration
        if not migration or f".{migration}." not in stored.subject:
            _log.error("event of another migration", subject=stored.subject, migration=migration)
            return
        if self._beginnings is not None:
            self._beginnings.learn(stored, recorded)
        self._pass_on(migration, stored, recorded)
        if self._signatures is not None:
            is_due = self._signatures.learn(migration, recorded, stored.time_ns)
            if is_due and self._begun and migration not in self._conductors:
                self._signatures.look(migration)
        if self._migrations is not None:
            self._migrations.learn(recorded, stored.time_ns)

    async def release_claims(self) -> None:
        """Free what a coordinator held that died between a migration's end and that."""
        await patiently(Claims(self._event_log, self._clock).release_ended)

    def begin(self) -> None:
        """The history is known: carry on with what has not ended, and with all that comes."""
        self._begun = True
        if self._migrations is not None:
            self._migrations.begin()
        if self._beginnings is not None:
            self._tasks.create_task(self._beginnings.keep())
        for conductor in self._conductors.values():
            self._tasks.create_task(self._conduct(conductor))
        if self._signatures is not None:
            for migration in self._signatures.due():
                if migration not in self._conductors:
                    self._signatures.look(migration)

    def _pass_on(self, migration: str, stored: Stored, recorded: Recorded) -> None:
        if isinstance(recorded.event, MigrationRequested):
            self._open(migration, recorded.event)
        conductor = self._conductors.get(migration)
        if conductor is not None:
            conductor.learn(stored, recorded)
        if isinstance(recorded.event, MigrationEnded) and not self._begun:
            self._conductors.pop(migration, None)

    def _open(self, migration: str, requested: MigrationRequested) -> None:
        if migration in self._conductors:
            return
        if len(self._conductors) >= OPEN_MAX:
            _log.error("too many open migrations", migration=migration, open=self.open)
            return
        conductor = Conductor(
            migration,
            requested,
            self._event_log,
            self._clock,
            self.name,
            self._life,
            self._catalogue,
            self._estimates,
            self._look_at_link,
            self._losses,
        )
        self._conductors[migration] = conductor
        if self._begun:
            self._tasks.create_task(self._conduct(conductor))

    async def _conduct(self, conductor: Conductor) -> None:
        """One migration's trouble stays its own; a log that stays silent or full is everybody's."""
        try:
            await conductor.run()
        except (UnreachableError, LogFullError):
            raise
        except GodwitError as error:
            _log.error(
                "migration left alone until the next start",
                migration=conductor.migration,
                code=error.code,
                error=error.message,
            )
        self._conductors.pop(conductor.migration, None)
        if self._signatures is not None:
            self._signatures.look(conductor.migration)
