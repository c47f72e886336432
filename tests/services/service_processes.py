"""Service processes for tests: the real ``python -m godwit.<service>``, with its real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

STOP_S_MAX = 15.0


class ServiceProcess:
    """One running service. Its logs go to a file that a failing test can name."""

    def __init__(self, module: str, directory: Path, nats_url: str, **variables: str) -> None:
        self._module = module
        directory.mkdir(parents=True, exist_ok=True)
        self.log_path = directory / f"{module}-{'-'.join(variables.values())}.log"
        self._environment = {
            **os.environ,
            "GODWIT_DIR": str(directory),
            "GODWIT_NATS_URL": nats_url,
            "GODWIT_LOG_FORMAT": "json",
            **variables,
        }
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", f"godwit.{self._module}"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, nothing is said."""
        self._process.kill()
        self._process.wait(STOP_S_MAX)

    def restart(self) -> None:
        """Start again after ``kill``."""
        assert self._process.poll() is not None, "it still runs"
        self._process = self._start()

    def freeze(self) -> None:
        """SIGSTOP: as a paused virtual machine, or a very long collection of garbage."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self._process.terminate()
        return self._process.wait(STOP_S_MAX)

    def discard(self) -> None:
        """End it whatever its state."""
        if self._process.poll() is None:
            self.kill()


StartService = Callable[..., ServiceProcess]
"""``start(module, **variables)``."""
