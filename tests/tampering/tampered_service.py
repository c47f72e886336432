"""Runs a service with a man in the middle of what reaches its direct link.

``python -m tampered_service godwit.destination_host``. The production code knows nothing of it: the
service listens as ever, and the port that it announces is the one of a relay X"""

from __future__ import annotations

import os
import runpy
import sys
from enum import StrEnum
from pathlib import Path
from typing import Final

from godwit.transfer.listener import LinkListener
from godwit.transfer.receiver import IncomingSession
from godwit_protocol.framing import Frame, FrameKind
from tampering import Tamper, Tampered, doubled, flipped_bit, lost, of_another_migration


class Case(StrEnum):
    """What happens to pages on their way."""

    NOTHING = "nothing"
    FLIPPED_BIT = "flipped_bit"
    LOST = "lost"
    DOUBLED = "doubled"
    OF_ANOTHER_MIGRATION = "of_another_migration"
    ALTERED_AT_REST = "altered_at_rest"


def _as_it_is(frame: Frame, payload: bytes) -> list[tuple[Frame, bytes]]:
    return [(frame, payload)]


TAMPERS: Final[dict[Case, Tamper]] = {
    Case.NOTHING: _as_it_is,
    Case.ALTERED_AT_REST: _as_it_is,
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
    return TAMPERS[_case()](frame, payload)


def _case() -> Case:
    return Case(case_path(Path(os.environ["GODWIT_DIR"])).read_text(encoding="utf-8"))


def _sealed_and_altered(session: IncomingSession, round_number: int) -> None:
    """One byte in the middle of the gated machine's memory, when nothing more may come."""
    _seal(session, round_number)
    if _case() is Case.ALTERED_AT_REST:
        ram = session._regions[0]
        ram[len(ram) // 2, 1000] ^= 1


def _announced(listener: LinkListener) -> int:
    """The relay's port; it is there as soon as somebody asks."""
    if listener not in _RELAYED:
        _RELAYED[listener] = Tampered(_tamper).in_front_of(_own_port(listener))
    return _RELAYED[listener]


_RELAYED: Final[dict[LinkListener, int]] = {}
_seal: Final = IncomingSession.seal
_own_port: Final = LinkListener.port.fget
assert _own_port is not None


def main() -> None:
    if sys.argv[1] == "godwit.destination_host":
        LinkListener.port = property(_announced)  # type: ignore[method-assign,assignment]
        IncomingSession.seal = _sealed_and_altered  # type: ignore[method-assign]
    runpy.run_module(sys.argv[1], run_name="__main__")


if __name__ == "__main__":
    main()
