"""Runs a service and counts what Python calls in it, by thread.

``python -m counting MODULE``, with COUNTS_DIR naming a directory: one file a service, renewed at
the end of each migration. For ``calls.py``, by ``Cluster.start(launch_through=("counting",))``.
Functions and builtins count alike: one that is called for each page would show, whatever it is.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from godwit.runtime.journal import Journal

_calls: Counter[str] = Counter()
"""By thread. Two of one name may lose a call to each other, which changes nothing here."""


def _count(_frame: FrameType, event: str, _argument: Any) -> None:
    if event in ("call", "c_call"):
        _calls[threading.current_thread().name] += 1


def _write_at_the_end_of_each_migration(path: Path) -> None:
    original = Journal.remove

    def remove(self: Journal) -> None:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(dict(_calls)))
        partial.replace(path)  # whole or not at all: somebody waits for it
        original(self)

    Journal.remove = remove  # type: ignore[method-assign]


def main() -> None:
    module = sys.argv[1]
    service = "-".join((os.environ.get("GODWIT_HOST", "cluster"), module.rpartition(".")[2]))
    _write_at_the_end_of_each_migration(Path(os.environ["COUNTS_DIR"]) / f"{service}.json")
    threading.setprofile(_count)
    sys.setprofile(_count)
    sys.argv = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
