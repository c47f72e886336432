"""Events of a migration's bandwidth, which may be changed again and again while it runs."""

from __future__ import annotations

from typing import ClassVar

from .envelope import Event


class BandwidthRequested(Event, frozen=True, kw_only=True):
    """An operator asked that pre-copy take no more of the link than this; 0: all of it.

    ``order``: the request's own id.
    """

    TYPE: ClassVar[str] = "bandwidth_requested"
    order: str
    bandwidth_bytes_per_second: int
    requested_by: str = ""


class BandwidthOrdered(Event, frozen=True, kw_only=True):
    """The source is to send no faster than this until the stun; 0: as fast as the link carries.

    ``change`` counts a migration's orders of this kind from 1; the highest goes. ``order`` and
    ``requested_by`` are the request's.
    """

    TYPE: ClassVar[str] = "bandwidth_ordered"
    change: int
    order: str
    bandwidth_bytes_per_second: int
    requested_by: str = ""
