"""How a bench ends: with all that it has started, also when it is told to end before it is done.

A cluster's processes outlive whoever started them, by design. So SIGTERM is taken as Ctrl-C is:
what is being done is cancelled, and its ``finally`` runs.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

END_S_MAX = 60.0
"""How long a program that is told to end may take: a cluster with machines, some ten seconds."""
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""Before the words of a program that is not to outlive us, whatever happens."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """As ``asyncio.run``, of a script."""
    obey_sigterm()
    try:
        return asyncio.run(main)
    except KeyboardInterrupt:
        sys.exit("told to end")


def obey_sigterm() -> None:
    """From now on SIGTERM raises ``KeyboardInterrupt``, or cancels what ``asyncio.run`` runs."""
    # Whoever was started in the background has a SIGINT that is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def completed(
    words: Sequence[str], timeout_s: float, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; after ``timeout_s`` it is told to end, and has failed.

    It is told so too when we are told to end ourselves.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, cwd=cwd) as process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            out, err = _ended(process)
            err += f"\nit did not end within {timeout_s:g} s"
        except BaseException:
            _ended(process)
            raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def _ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    process.terminate()
    try:
        return process.communicate(timeout=END_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()
