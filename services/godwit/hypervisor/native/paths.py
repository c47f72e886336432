"""Where the native hypervisor keeps its files, under a host's directory."""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LAUNCHER_SOCKET: Final = "launcher.sock"
LAUNCHER_LOCK: Final = "launcher.lock"
_MACHINES: Final = "machines"


@dataclass(frozen=True, slots=True)
class MachineFolder:
    """The files of one VMM: ``$GODWIT_HOST_DIR/machines/<name>/``."""

    path: Path

    @classmethod
    def of(cls, host_dir: Path, machine: str) -> MachineFolder:
        """The folder of a machine; it need not exist."""
        return cls(host_dir / _MACHINES / machine)

    @classmethod
    def all(cls, host_dir: Path) -> list[MachineFolder]:
        """Those that exist, by name, whether or not their VMM lives."""
        return [cls(path) for path in sorted((host_dir / _MACHINES).glob("*/"))]

    @property
    def socket(self) -> Path:
        """The control socket."""
        return self.path / "vmm.sock"

    @property
    def order(self) -> Path:
        """The ``Spawn`` message that it was created by."""
        return self.path / "spec"

    @property
    def pid(self) -> Path:
        """The process id, in a file that the VMM holds locked for as long as it lives."""
        return self.path / "pid"

    def is_locked(self) -> bool:
        """Whether the VMM lives."""
        with self.pid.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def remove(self, *, keep_log: bool = False) -> None:
        """Remove it with all that it holds, unless its VMM lives. Idempotent.

        The lock is held until the pid file, the last but the log, is gone: who makes the folder
        anew meanwhile, or removes it too, must see, once it has locked that file, whether it still
        is one. What is there otherwise is another VMM's.
        """
        try:
            lock = os.open(self.pid, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(lock).st_nlink:
                return
            logs = () if keep_log else (self.log,)
            for path in (self.socket, self.order, self.tracking, *logs, self.pid):
                path.unlink(missing_ok=True)
            if not keep_log:
                self.path.rmdir()
        except BlockingIOError:
            pass
        except OSError as error:  # something of another's is in it: that is not ours to remove
            if error.errno not in {errno.ENOTEMPTY, errno.ENOENT}:
                raise
        finally:
            os.close(lock)

    @property
    def tracking(self) -> Path:
        """The file of the machine's ``TrackingLease``."""
        return self.path / "tracking.lock"

    @property
    def log(self) -> Path:
        """What the VMM and its guest print."""
        return self.path / "log"
