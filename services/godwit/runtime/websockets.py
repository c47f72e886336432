"""Keeps aiohttp out of processes that need no WebSockets: it is a third of what a VMM imports.

The NATS client imports it wherever it is installed, for ``ws://`` URLs alone, and does without it
where it is not. Knows which libraries these are, and nothing of NATS.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Final

_LIBRARIES: Final = ("aiohttp", "multidict")


@contextmanager
def left_out() -> Iterator[None]:
    """Meanwhile the libraries are not installed, for whoever imports them."""
    before = {name: sys.modules.get(name) for name in _LIBRARIES}
    sys.modules.update(dict.fromkeys(_LIBRARIES))  # type: ignore[arg-type]  # None: not to be found
    try:
        yield
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


def put_into(module: ModuleType, *, if_needed_for: Sequence[str]) -> None:
    """Give the libraries to ``module``, which was imported while they were left out, if one of
    these URLs is reached by WebSockets.
    """
    if any(url.startswith(("ws:", "wss:")) for url in if_needed_for):
        for name in _LIBRARIES:
            setattr(module, name, importlib.import_module(name))
