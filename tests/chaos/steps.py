"""The named steps of a migration, in their order, and who takes each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """Who takes a step."""

    SOURCE = "source_host"
    DESTINATION = "destination_host"


@dataclass(frozen=True, slots=True)
class Step:
    """``name`` as ``run_service`` names it; ``key`` heads its column; ``meaning`` is for people."""

    key: str
    role: Role
    name: str
    meaning: str


_SOURCE: Final = (
    ("do open_link", "is told to start; has not connected"),
    ("do append precopy_started", "the link is up"),
    ("hear round_done", "a round is over"),
    ("do append stun_intended", "wants to stun; the intent is not journaled"),
    ("hear appended", "the intent is acknowledged; the machine still runs"),
    ("hear paused", "the machine is paused; FROZEN is not journaled"),
    ("do send_final", "FROZEN is written, not flushed; the last pages are not sent"),
    ("do say_stage", "FROZEN is journaled, the last pages are sent; Stage is not said"),
    ("hear peer_staged", "STAGED is heard; GO is not journaled"),
    ("do say go", "GO is journaled, not said"),
    ("hear peer_active", "ACTIVE is heard; RELEASED is not journaled"),
    ("do free_memory", "RELEASED is journaled; the VMM is there"),
    ("do finish", "the VMM is gone; the journal is there"),
)
_DESTINATION: Final = (
    ("do prepare_machine", "is told to prepare; there is no VMM"),
    ("do append destination_prepared", "the VMM is there, gated; nobody knows"),
    ("do populate", "the source has said Hello"),
    ("hear round_received", "the first round is in memory"),
    ("do load_image", "Stage is heard"),
    ("do append image_staged", "the image is whole; STAGED is not journaled"),
    ("do say staged", "STAGED is journaled, not said"),
    ("hear peer_go", "GO is heard; ACTIVATING is not journaled"),
    ("do compare_and_set", "ACTIVATING is journaled; the register is not written"),
    ("hear cas_settled", "the register names the destination; the gate is closed"),
    ("hear gate_opened", "the machine runs here; ACTIVE is not journaled"),
    ("do finish", "ACTIVE is journaled and said; the journal is there"),
)

STEPS: Final = tuple(
    Step(f"{role.value[0]}{number}", role, name, meaning)
    for role, steps in ((Role.SOURCE, _SOURCE), (Role.DESTINATION, _DESTINATION))
    for number, (name, meaning) in enumerate(steps, start=1)
)

BEFORE_THE_SOURCE: Final = STEPS[len(_SOURCE) :][:2]
"""Steps of the destination when the source knows of no migration."""


def step(key: str) -> Step:
    """The step that heads the column ``key``."""
    return next(each for each in STEPS if each.key == key)
