"""How often a machine may be looked at: so seldom that it loses at most 1 % of its time. Pure."""

from __future__ import annotations

from typing import Final

from ..machine import PAGE_BYTES
from .history import DirtyWindow

FAULT_NS: Final = 2_000
"""What the first write to a page in a window costs the machine; bench/sampling.py measures it."""
COST_SHARE_MAX: Final = 0.01


def cost_ns(window: DirtyWindow) -> int:
    """What the window cost the machine at most: a fault for each page that it wrote, and the
    sweeps, as if they had run in its place.
    """
    return window.cost_ns + FAULT_NS * (window.written_bytes[-1] // PAGE_BYTES)


def next_begin_ns(window: DirtyWindow, period_ns: int) -> int:
    """When the next window may begin, from this one's beginning: ``period_ns`` later, or as much
    later as its cost demands.
    """
    return max(period_ns, int(cost_ns(window) / COST_SHARE_MAX))
