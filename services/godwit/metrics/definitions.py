"""Every metric that there is: its name, its kind, its labels, who has it, and what it says.

Names are Prometheus's: base units (seconds, bytes, ratios from 0 to 1), ``_total`` for what only
grows. Labels take few values that are known beforehand: never the id or the name of a migration, a
machine, or a host. The table in the docs is made from this. Knows nothing of how values come about.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from godwit.runtime.config import WRITERS, Service
from godwit_protocol import subjects
from godwit_protocol.convergence import Decision
from godwit_protocol.events.machine import RegisterWentBack, StaleMachineFrozen
from godwit_protocol.events.migration import AbortReason, DoubtRaised, MemoryLeft, Outcome
from godwit_protocol.projections import STUN_PARTS

NO_REASON: Final = "none"
"""The label of a migration that completed: Prometheus knows no empty one."""


class Kind(StrEnum):
    """What can be done with a metric's values."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Own(StrEnum):
    """By what a service came to own a machine."""

    STARTED = "started"
    ACTIVATED = "activated"
    TAKEN_BACK = "taken_back"
    RESTORED = "restored"


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric. ``series``: label values that are there from the start, at zero, so that a query
    finds them before anything has happened. ``bounds``: upper ones of a histogram's buckets.
    """

    name: str
    kind: Kind
    meaning: str
    services: frozenset[Service]
    labels: tuple[str, ...] = ()
    series: tuple[tuple[str, ...], ...] = ()
    bounds: tuple[float, ...] = ()


def _each(values: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    return tuple((value,) for value in values)


_ALONE: Final = ((),)
_EVERY: Final = frozenset(Service) - {Service.PROVISION, Service.COMMAND}
_COORDINATOR: Final = frozenset({Service.COORDINATOR})
_SOURCE: Final = frozenset({Service.SOURCE_HOST})
_HOSTS: Final = frozenset({Service.SOURCE_HOST, Service.DESTINATION_HOST})
_TRACKER: Final = frozenset({Service.GPU_STATE_TRACKER})

_STUN_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_COMPONENT_S: Final = (0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
_APPEND_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)
_WAIT_S: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
_ROUND_S: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
_MIGRATION_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)

COMPONENTS: Final = STUN_PARTS
ENDS: Final = (
    (Outcome.COMPLETED.value, NO_REASON),
    *((Outcome.ABORTED.value, reason.value) for reason in AbortReason if reason),
)
ALARMS: Final = (DoubtRaised, StaleMachineFrozen, RegisterWentBack, MemoryLeft)
ANSWERS: Final = ("granted", "refused", "confirmed", "released", "expired")

# Every service; of appends, all but the monitor, which makes none.

SERVICE_INFO = Metric(
    "godwit_service_info",
    Kind.GAUGE,
    "1, with the version that runs.",
    _EVERY,
    ("version",),
)
SERVICE_READY = Metric(
    "godwit_service_ready",
    Kind.GAUGE,
    "Whether the service does its work and finds nothing wrong, as /healthz says: 1 or 0.",
    _EVERY,
)
LOG_CONNECTED = Metric(
    "godwit_log_connected",
    Kind.GAUGE,
    "Whether the service has a connection to the event log: 1 or 0.",
    _EVERY,
)
APPEND_SECONDS = Metric(
    "godwit_log_append_seconds",
    Kind.HISTOGRAM,
    "From an append to the event log to its acknowledgement.",
    WRITERS,
    ("stream",),
    bounds=_APPEND_S,
)
APPEND_CONFLICTS = Metric(
    "godwit_log_append_conflicts_total",
    Kind.COUNTER,
    "Appends that lost a compare-and-set: another writer was first, and nothing was stored.",
    WRITERS,
    ("stream",),
    _each(subjects.STREAM_SUBJECTS),
)
APPEND_FAILURES = Metric(
    "godwit_log_append_failures_total",
    Kind.COUNTER,
    "Appends that were refused or not answered in time; most are tried again.",
    WRITERS,
    ("stream",),
    _each(subjects.STREAM_SUBJECTS),
)

# The coordinator: whole migrations. Each replica counts those that it ended.

MIGRATIONS_ENDED = Metric(
    "godwit_migrations_total",
    Kind.COUNTER,
    "Migrations that ended, by how and why.",
    _COORDINATOR,
    ("outcome", "reason"),
    ENDS,
)
MIGRATION_SECONDS = Metric(
    "godwit_migration_seconds",
    Kind.HISTOGRAM,
    "From the request of a migration to its end.",
    _COORDINATOR,
    ("outcome",),
    _each((Outcome.COMPLETED, Outcome.ABORTED)),
    _MIGRATION_S,
)
QUEUE_WAIT_SECONDS = Metric(
    "godwit_migration_queue_wait_seconds",
    Kind.HISTOGRAM,
    "From the request of a migration until its destination was told to prepare: the queue, the"
    " claim on the machine, the estimate, the reservation.",
    _COORDINATOR,
    series=_ALONE,
    bounds=_WAIT_S,
)
PREPARATION_SECONDS = Metric(
    "godwit_migration_preparation_seconds",
    Kind.HISTOGRAM,
    "From the order to prepare until the source was told to start.",
    _COORDINATOR,
    series=_ALONE,
    bounds=_WAIT_S,
)
STUN_SECONDS = Metric(
    "godwit_migration_stun_seconds",
    Kind.HISTOGRAM,
    "How long machines stood still; aborted: until the machine ran on at its source. Where the two"
    " hosts have no clock in common and the offset of theirs is not known, until the source heard"
    " that the machine runs.",
    _COORDINATOR,
    ("outcome",),
    _each((Outcome.COMPLETED, Outcome.ABORTED)),
    _STUN_S,
)
STUN_COMPONENT_SECONDS = Metric(
    "godwit_migration_stun_component_seconds",
    Kind.HISTOGRAM,
    "The parts of completed migrations' stuns. Those that begin on one host and end on the other"
    " (receive, staged, go) only where both have one clock, or the offset of theirs is known.",
    _COORDINATOR,
    ("component",),
    _each(COMPONENTS),
    _COMPONENT_S,
)
STUN_LIMIT_EXCEEDED = Metric(
    "godwit_migration_stun_limit_exceeded_total",
    Kind.COUNTER,
    "Completed migrations whose stun was longer than the limit they were given.",
    _COORDINATOR,
    series=_ALONE,
)
MIGRATIONS_OPEN = Metric(
    "godwit_migrations_open",
    Kind.GAUGE,
    "Migrations that have not ended, as this replica sees them: all replicas see the same.",
    _COORDINATOR,
)
OLDEST_WAIT_SECONDS = Metric(
    "godwit_migration_oldest_wait_seconds",
    Kind.GAUGE,
    "Of the open migrations whose destination was not told to prepare yet, how long the first has"
    " waited since its request; 0: none waits.",
    _COORDINATOR,
)
MIGRATIONS_IN_DOUBT = Metric(
    "godwit_migrations_in_doubt",
    Kind.GAUGE,
    "Of these, migrations of which nobody can prove who may run the machine (docs/in-doubt.md).",
    _COORDINATOR,
)

# The source host: rounds, as they go out.

ROUNDS = Metric(
    "godwit_migration_rounds_total",
    Kind.COUNTER,
    "Rounds of pre-copy, by what was decided at their end.",
    _SOURCE,
    ("decision",),
    _each(Decision),
)
ROUND_SECONDS = Metric(
    "godwit_migration_round_seconds",
    Kind.HISTOGRAM,
    "What a round took until it was applied.",
    _SOURCE,
    series=_ALONE,
    bounds=_ROUND_S,
)
SENT_BYTES = Metric(
    "godwit_migration_sent_bytes_total",
    Kind.COUNTER,
    "Bytes of pages sent, in rounds of pre-copy and in the stun.",
    _SOURCE,
    ("phase",),
    _each(("precopy", "stun")),
)
WIRE_BYTES = Metric(
    "godwit_migration_wire_bytes_total",
    Kind.COUNTER,
    "Bytes that rounds of pre-copy put on the wire, frames included.",
    _SOURCE,
    series=_ALONE,
)
TRANSFER_RATE = Metric(
    "godwit_migration_transfer_bytes_per_second",
    Kind.GAUGE,
    "How fast pages go out, by the last round of each migration away from the host, together.",
    _SOURCE,
)
DIRTY_RATE = Metric(
    "godwit_migration_dirty_bytes_per_second",
    Kind.GAUGE,
    "How fast their machines write pages, by the last round of each, together.",
    _SOURCE,
)
REMAINING_BYTES = Metric(
    "godwit_migration_remaining_bytes",
    Kind.GAUGE,
    "What their last rounds left to be sent, together.",
    _SOURCE,
)
PREDICTED_STUN_SECONDS = Metric(
    "godwit_migration_predicted_stun_seconds",
    Kind.GAUGE,
    "The longest of the stuns that were predicted at the end of their last rounds.",
    _SOURCE,
)
THROTTLE_RATIO = Metric(
    "godwit_migration_throttle_ratio",
    Kind.GAUGE,
    "How much of its time is taken from the guest that is slowed most: 0 to 1.",
    _SOURCE,
)

# The hosts.

OUTBOX_DEPTH = Metric(
    "godwit_outbox_depth",
    Kind.GAUGE,
    "Events that wait to be stored in the log.",
    _HOSTS,
)
OUTBOX_AGE_SECONDS = Metric(
    "godwit_outbox_oldest_age_seconds",
    Kind.GAUGE,
    "How long the oldest of them has waited.",
    _HOSTS,
)
OUTBOX_REFUSED = Metric(
    "godwit_outbox_refused_total",
    Kind.COUNTER,
    "Events that the log will never take: each is an error in the service's own log.",
    _HOSTS,
)
MOVES_OPEN = Metric(
    "godwit_host_migrations_open",
    Kind.GAUGE,
    "Migrations that the service has a part in now.",
    _HOSTS,
)
OWNERSHIP_EPOCH = Metric(
    "godwit_ownership_epoch",
    Kind.GAUGE,
    "The highest epoch in which a machine came to be owned here since the service started.",
    _HOSTS,
    series=_ALONE,
)
OWNERSHIP_CHANGES = Metric(
    "godwit_ownership_changes_total",
    Kind.COUNTER,
    "How often a machine came to be owned here, and by what.",
    _HOSTS,
    ("by",),
    _each(Own),
)
MACHINES_FAILED = Metric(
    "godwit_machines_failed_total",
    Kind.COUNTER,
    "Machines whose guest raised or whose VMM died.",
    _HOSTS,
    series=_ALONE,
)
ALARMS_RAISED = Metric(
    "godwit_alarms_total",
    Kind.COUNTER,
    "Alarm events that the service wrote.",
    _HOSTS | _COORDINATOR,
    ("alarm",),
    _each(event.TYPE for event in ALARMS),
)

# The tracker.

RESERVATIONS = Metric(
    "godwit_reservations_total",
    Kind.COUNTER,
    "What became of reservations, as this replica wrote it.",
    _TRACKER,
    ("answer",),
    _each(ANSWERS),
)
ESTIMATES = Metric(
    "godwit_estimates_total",
    Kind.COUNTER,
    "Estimates of migrations that completed, by whether the stun kept the bound.",
    _TRACKER,
    ("within",),
    _each(("true", "false")),
)
GPUS = Metric(
    "godwit_gpus",
    Kind.GAUGE,
    "GPUs that hosts have announced.",
    _TRACKER,
    ("model", "simulated"),
)
GPU_MEMORY_BYTES = Metric(
    "godwit_gpu_memory_bytes",
    Kind.GAUGE,
    "Memory of these GPUs.",
    _TRACKER,
    ("model",),
)
GPU_HELD_BYTES = Metric(
    "godwit_gpu_held_bytes",
    Kind.GAUGE,
    "Of that, what vGPUs hold: consumed by machines, or reserved for them.",
    _TRACKER,
    ("model", "state"),
)
GPU_OCCUPANCY = Metric(
    "godwit_gpu_occupancy_ratio",
    Kind.GAUGE,
    "The part of the GPUs' memory that is held.",
    _TRACKER,
    ("model",),
)
GPU_FRAGMENTATION = Metric(
    "godwit_gpu_fragmentation_ratio",
    Kind.GAUGE,
    "Of the placements that would be legal if each GPU's own vGPUs were seated anew, the part that"
    " is not legal as they sit: the mean over the GPUs of a model.",
    _TRACKER,
    ("model",),
)

ALL: Final = tuple(value for value in vars().copy().values() if isinstance(value, Metric))


def of(service: Service) -> tuple[Metric, ...]:
    """The metrics that a service has."""
    return tuple(metric for metric in ALL if service in metric.services)
