"""Cancellations that a library forgets. Knows tasks, and nothing of what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def cancellable() -> Iterator[None]:
    """A call of the NATS client, which forgets a cancellation where it flushes, and one that comes
    together with an answer: ``asyncio.wait_for`` does, before Python 3.12.
    """
    before = _cancellations()
    yield
    if _cancellations() > before:
        raise asyncio.CancelledError


def _cancellations() -> int:
    """How often the current task was cancelled and has not said that it goes on."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0
