"""XIDs: the driver's reports of errors, as NVML tells them while it is listened to."""

from __future__ import annotations

from typing import Final

from godwit_protocol.facts import XIDS_MAX

from .asking import Asker
from .library import TIMEOUT, Handle, Library, NvmlError

XID_EVENTS: Final = 8  # nvmlEventTypeXidCriticalError
EVENTS_MAX: Final = 256
"""Events taken in one look; a GPU that reports more is told by what it said first."""


class Xids:
    """Listens from the first look on. What came before, nobody knows. Used by one thread."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._set: Handle | None = None
        self._seen: dict[int, tuple[int, ...]] = {}

    def of(self, index: int, device: Handle, asker: Asker) -> tuple[int, ...] | None:
        """The newest XIDs of a GPU, the latest last; None if it does not tell them."""
        if index not in self._seen and self._listen(index, device, asker):
            self._seen[index] = ()
        return self._seen.get(index)

    def read(self) -> None:
        """Take what has come since the last time, and wait for nothing."""
        for _ in range(EVENTS_MAX):
            event = self._next()
            if event is None:
                return
            index, xid = event
            self._seen[index] = (*self._seen.get(index, ()), xid)[-XIDS_MAX:]

    def _listen(self, index: int, device: Handle, asker: Asker) -> bool:
        if self._set is None:
            self._set = asker.ask("xids", "nvmlEventSetCreate")
        if self._set is None:
            return False
        asker.ask("xids", "nvmlDeviceRegisterEvents", device, XID_EVENTS, self._set)
        return "xids" not in asker.unanswered

    def _next(self) -> tuple[int, int] | None:
        if self._set is None:
            return None
        try:
            event = self._library.ask("nvmlEventSetWait", self._set, 0)
            return self._library.ask("nvmlDeviceGetIndex", event["device"]), event["eventData"]
        except NvmlError as error:
            if error.status == TIMEOUT:
                return None
            raise
