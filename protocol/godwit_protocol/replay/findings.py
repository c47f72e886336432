"""What a verification has found: what is proven, what is not, and what is wrong. Pure data."""

from __future__ import annotations

from typing import Final

import msgspec


class Fault(msgspec.Struct, frozen=True):
    """One thing that cannot be right. ``sequence``: the message's position, 0 if it is none's."""

    sequence: int
    text: str

    def __str__(self) -> str:
        return f"at {self.sequence}: {self.text}" if self.sequence else self.text


UNCLOSED: Final = "that nothing came after the coordinator's last signature"
"""It signs again after what comes late: a log that is cut back to an earlier signature is whole."""
UNPROVABLE: Final = frozenset({UNCLOSED})
"""What a log cannot prove of itself, however well it is signed."""


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What came of verifying one migration. What is unproven may be so or not; ``open_ends`` of it:
    that the last events of lanes are all that there were.
    """

    migration: str
    events: int
    proven: tuple[str, ...]
    unproven: tuple[str, ...]
    faults: tuple[Fault, ...]
    open_ends: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether all that can be proven is: nothing is wrong, and nothing is left open but what no
        log can prove.
        """
        return not self.faults and set(self.unproven) <= UNPROVABLE
