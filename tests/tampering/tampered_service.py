"""Runs a service with a man in the middle of what reaches its direct link.

``python -m tampered_service godwit.destination_host``. The production code knows nothing of it: the
service listens as ever, and the port that it announces is the one of a relay before it. A file in
the cluster's directory says what the relay does to the bulk connections that come next.
"""

from __future__ import annotations

import os
import runpy
import sys
from enum import StrEnum
from pathlib import Path
from typing import Final

from godwit.transfer.listener import LinkListener
from godwit_protocol.framing import Frame, FrameKind
from tampering import Tamper, Tampered, doubled, flipped_bit, lost, of_another_migration


class Case(StrEnum):
    """What happens to pages on their way."""

    NOTHING = "nothing"
    FLIPPED_BIT = "flipped_bit"
    LOST = "lost"
    DOUBLED = "doubled"
    OF_ANOTHER_MIGRATION = "of_another_migration"


TAMPERS: Final[dict[Case, Tamper]] = {
    Case.NOTHING: lambda frame, payload: [(frame, payload)],
    Case.FLIPPED_BIT: flipped_bit(FrameKind.RUN),
    Case.LOST: lost(FrameKind.RUN),
    Case.DOUBLED: doubled(FrameKind.RUN),
    Case.OF_ANOTHER_MIGRATION: of_another_migration(FrameKind.RUN),
}


def case_path(directory: Path) -> Path:
    """Where the case is, of the cluster in ``directory``."""
    return directory / "tampering.txt"


def _tamper(frame: Frame, payload: bytes) -> list[tuple[Frame, bytes]]:
    if frame.kind is not FrameKind.RUN:
        return [(frame, payload)]
    case = Case(case_path(Path(os.environ["GODWIT_DIR"])).read_text(encoding="utf-8"))
    return TAMPERS[case](frame, payload)


def _announced(listener: LinkListener) -> int:
    """The relay's port; it is there as soon as somebody asks."""
    if listener not in _RELAYED:
        _RELAYED[listener] = Tampered(_tamper).in_front_of(_own_port(listener))
    return _RELAYED[listener]


_RELAYED: Final[dict[LinkListener, int]] = {}
_own_port: Final = LinkListener.port.fget
assert _own_port is not None


def main() -> None:
    if sys.argv[1] == "godwit.destination_host":
        LinkListener.port = property(_announced)  # type: ignore[method-assign,assignment]
    runpy.run_module(sys.argv[1], run_name="__main__")


if __name__ == "__main__":
    main()
