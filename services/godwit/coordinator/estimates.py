"""What a migration is expected to take, and by policy whether it may begin. Decides nothing itself.

An estimate that stands in the log goes: a coordinator that restarts, or another one, acts on the
same.
"""

from __future__ import annotations

from godwit.estimation.reading import forecasts
from godwit.runtime.event_log import EventLog
from godwit_protocol import codec, subjects
from godwit_protocol.estimation.admission import AdmissionPolicy, admit
from godwit_protocol.events import Lane
from godwit_protocol.events.estimate import EstimateMade
from godwit_protocol.events.migration import MigrationRequested


class Estimates:
    """Made for one replica of the coordinator. ``policy``: for requests that name none."""

    def __init__(self, log: EventLog, policy: AdmissionPolicy) -> None:
        self._event_log = log
        self._policy = policy

    async def of(self, migration: str, requested: MigrationRequested, source: str) -> EstimateMade:
        """The estimate of a migration from ``source``. Raises ``UnreachableError``."""
        standing = await self._standing(migration)
        if standing is not None:
            return standing
        to, limits = requested.destination, requested.limits
        found = await forecasts(self._event_log, requested.machine, source, (to,), limits)
        verdict = admit(found[to], limits.longest_stun_ns, requested.admission or self._policy)
        return EstimateMade(
            source=source,
            destination=to,
            stun_limit_ns=limits.longest_stun_ns,
            admission=verdict.admission,
            message=verdict.message,
            estimate=found[to].estimate,
            lacking=found[to].lacking,
        )

    async def _standing(self, migration: str) -> EstimateMade | None:
        subject = subjects.migration(migration, Lane.COORDINATOR, EstimateMade.TYPE)
        stored = await self._event_log.last(subject)
        if stored is None:
            return None
        event = codec.decode(stored.data, stored.sequence).event
        return event if isinstance(event, EstimateMade) else None
