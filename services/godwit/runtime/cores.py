"""How many cores this process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """At least 1. A container may have fewer than its machine."""
    return len(os.sched_getaffinity(0))
