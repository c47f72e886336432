"""Reservations: capacity on a host's GPUs that is asked for, held, used and given back."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from ..catalogue import GpuMode
from ..placement.policy import DeviceGroup, Policy
from .envelope import Event


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """One vGPU on one GPU of a host: ``slots`` of the GPU's axis in its mode, from ``start`` on.

    ``start`` -1: written before places were exact; nothing else can be placed beside it.
    """

    gpu: int
    profile: str
    framebuffer_bytes: int
    mode: GpuMode = GpuMode.NONE
    start: int = -1
    slots: int = 0


class ReservationRequested(Event, frozen=True, kw_only=True):
    """Capacity on a host is asked for. ``reservation`` is the migration's or the start's id.

    ``gpus``: only on one of these; None: on any.
    """

    TYPE: ClassVar[str] = "reservation_requested"
    reservation: str
    machine: str
    target: str
    profiles: tuple[str, ...]
    framebuffer_bytes: tuple[int, ...]
    placement_policy: Policy = Policy.CONSOLIDATE
    device_group: DeviceGroup = DeviceGroup.NONE
    gpus: tuple[int, ...] | None = None


class ReservationGranted(Event, frozen=True, kw_only=True):
    """The tracker holds the capacity, until ``expires_wall_ns`` if nobody uses it (0: for good)."""

    TYPE: ClassVar[str] = "reservation_granted"
    reservation: str
    target: str
    placements: tuple[Placement, ...]
    expires_wall_ns: int = 0


class ReservationRefused(Event, frozen=True, kw_only=True):
    """The tracker does not hold it. ``code`` is a ``RefusalCode``."""

    TYPE: ClassVar[str] = "reservation_refused"
    reservation: str
    target: str
    code: str
    message: str


class ReservationConfirmed(Event, frozen=True, kw_only=True):
    """The capacity is now occupied by the machine."""

    TYPE: ClassVar[str] = "reservation_confirmed"
    reservation: str
    target: str


class ReservationReleased(Event, frozen=True, kw_only=True):
    """The capacity is free again."""

    TYPE: ClassVar[str] = "reservation_released"
    reservation: str
    target: str
    why: str


class ReservationExpired(Event, frozen=True, kw_only=True):
    """Nobody has used the capacity by its deadline: it is free again."""

    TYPE: ClassVar[str] = "reservation_expired"
    reservation: str
    target: str
