"""Runs a service and writes down when its parts of a switchover began and ended.

``python -m spans MODULE``, with SPANS_DIR naming a directory: one file of JSON lines a service. For
``switchover.py``, by ``Cluster.start(launch_through=("spans",))``. Only what takes its time is
wrapped: flushes of the journal, questions to the VMM, the scan, the sending, the compare-and-set.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

from godwit.host.registers import Registers
from godwit.hypervisor.native.channel import Channel
from godwit.hypervisor.native.dirty import WriteProtectTracker
from godwit.runtime.journal import Journal
from godwit.transfer.sender import BulkSender

Span = dict[str, Any]
_spans: list[Span] = []


def wrap(kind: type, method: str, name: str) -> None:
    """Write down each call of ``kind.method`` as a span ``name``."""
    original = getattr(kind, method)

    def note(began_ns: int, arguments: tuple[Any, ...]) -> None:
        detail = type(arguments[0]).__name__ if arguments else ""
        span = {"name": name, "detail": detail, "began_ns": began_ns, "ended_ns": _now_ns()}
        _spans.append(span)

    @functools.wraps(original)
    def timed(self: Any, *arguments: Any, **named: Any) -> Any:
        began_ns = _now_ns()
        try:
            return original(self, *arguments, **named)
        finally:
            note(began_ns, arguments)

    @functools.wraps(original)
    async def timed_async(self: Any, *arguments: Any, **named: Any) -> Any:
        began_ns = _now_ns()
        try:
            return await original(self, *arguments, **named)
        finally:
            note(began_ns, arguments)

    setattr(kind, method, timed_async if inspect.iscoroutinefunction(original) else timed)


def _now_ns() -> int:
    return time.monotonic_ns()


def _write_at_the_end_of_each_migration(path: Path) -> None:
    original = Journal.remove

    def remove(self: Journal) -> None:
        with path.open("a", encoding="utf-8") as file:
            while _spans:
                file.write(json.dumps(_spans.pop(0)) + "\n")
        original(self)

    Journal.remove = remove  # type: ignore[method-assign]


def main() -> None:
    module = sys.argv[1]
    service = "-".join((os.environ.get("GODWIT_HOST", "cluster"), module.rpartition(".")[2]))
    wrap(Journal, "flush", "journal")
    wrap(Channel, "ask", "vmm")
    wrap(WriteProtectTracker, "scan", "scan")
    wrap(BulkSender, "send_round", "send")
    wrap(Registers, "compare_and_set", "cas")
    _write_at_the_end_of_each_migration(Path(os.environ["SPANS_DIR"]) / f"{service}.jsonl")
    sys.argv = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
