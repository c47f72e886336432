"""Events of a machine that is lost with both hosts of its migration."""

from __future__ import annotations

from typing import ClassVar

from .envelope import Event


class LossOrdered(Event, frozen=True, kw_only=True):
    """An operator vouches that both hosts are off for good, and gives the machine up.

    ``may_be_lost`` is what the operator was told and accepted. Where a fencing program is
    configured, only its word counts.
    """

    TYPE: ClassVar[str] = "loss_ordered"
    may_be_lost: tuple[str, ...] = ()
    requested_by: str = ""
