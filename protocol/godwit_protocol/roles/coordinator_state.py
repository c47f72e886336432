"""What the coordinator knows of a migration: its phases, its state, its deadlines."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from ..events import migration as ev
from ..machine import MachineSpec
from . import inputs as inp

RESERVATION_DEADLINE_NS: Final = 15_000_000_000
PREPARATION_DEADLINE_NS: Final = 60_000_000_000
SOURCE_GRACE_NS: Final = 15_000_000_000
"""The source keeps the migration's deadline itself; only then is it ordered to abort."""
ABORT_DEADLINE_NS: Final = 30_000_000_000
RELEASE_DEADLINE_NS: Final = 30_000_000_000


class Phase(StrEnum):
    """Where a migration is, as the coordinator sees it."""

    CONSIDERING = "considering"
    CLAIMING = "claiming"
    RESERVING = "reserving"
    PREPARING = "preparing"
    DECIDING = "deciding"
    MOVING = "moving"
    ABORTING = "aborting"
    RELEASING = "releasing"
    WRITING_OFF = "writing_off"
    SETTLING = "settling"
    ENDED = "ended"


class CoordinatorState(msgspec.Struct, frozen=True, kw_only=True):
    """All that the coordinator knows of one migration."""

    phase: Phase
    migration: str
    machine: str = ""
    source: str = ""
    destination: str = ""
    epoch: int = 0
    limits: ev.Limits = ev.Limits()
    verify: ev.Verify = ev.Verify.OFF
    spec: MachineSpec | None = None
    gpus: tuple[int, ...] | None = None
    preparation_ordered: bool = False
    ready: inp.DestinationReady | None = None
    deadline_ns: int = 0
    migration_deadline_ns: int = 0
    cancelled: bool = False
    """An operator asked for it while nothing could be decided."""
    bandwidth_bytes_per_second: int | None = None
    """What an operator asked for last; None: what the limits say."""
    bandwidth_changes: int = 0
    """How many of them the source was told, once it was told to start."""
    alarmed: bool = False
    lost: tuple[str, ...] = ()
    """Hosts on which nothing of the machine is left, sorted."""
    some_host_off: bool = False
    """One of them is proven to be off: it cannot give the machine up in the register."""


def next_deadline_ns(state: CoordinatorState) -> int | None:
    """When the state wants a ``Tick`` (wall clock); None if never."""
    waits = state.phase in (
        Phase.RESERVING,
        Phase.PREPARING,
        Phase.MOVING,
        Phase.ABORTING,
        Phase.RELEASING,
    )
    return state.deadline_ns if waits and not state.alarmed else None


def unproven(state: CoordinatorState) -> tuple[str, ...]:
    """The hosts that may still have something of a machine that has neither stayed nor moved."""
    if state.phase not in (Phase.MOVING, Phase.ABORTING):
        return ()
    return tuple(host for host in (state.source, state.destination) if host not in state.lost)
