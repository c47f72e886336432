"""The named steps of a migration, in their order, who takes each, and what leads there."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """Who takes a step: a service, by its name."""

    SOURCE = "source_host"
    DESTINATION = "destination_host"
    COORDINATOR = "coordinator"
    TRACKER = "gpu_state_tracker"


HOST_ROLES: Final = (Role.SOURCE, Role.DESTINATION)


class Course(StrEnum):
    """How a migration goes that nothing is done to but this."""

    GOES_WELL = "it goes well"
    CANCELLED = "an operator cancels it in pre-copy"
    TAKEN_BACK = "an operator cancels it when the image is staged, and GO is not given"
    RECLAIMED = "GO is given, and no answer comes"


@dataclass(frozen=True, slots=True)
class Step:
    """``name`` as ``run_service`` names it; ``key`` heads its column; ``meaning`` is for people."""

    key: str
    role: Role
    name: str
    meaning: str
    course: Course = Course.GOES_WELL


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
_COORDINATOR: Final = (
    ("do take_claim", "the request is considered; the claim is not written"),
    ("do append reservation_requested", "the claim stands; nothing is asked for"),
    ("did append reservation_requested", "capacity is asked for; no answer is heard"),
    ("do append preparation_ordered", "the reservation is heard of; nobody is told to prepare"),
    ("did append preparation_ordered", "the destination is told to prepare"),
    ("do append start_decided", "the destination listens; nothing is decided"),
    ("did append start_decided", "the start is decided; that has not come back"),
    ("do append migration_started", "the decision has come back; the source is not told"),
    ("did append migration_started", "the source is told to start"),
    ("do append migration_ended", "RELEASED is heard; the end is not written"),
    ("do release_claim", "the end is written; the claim stands"),
    ("did release_claim", "the claim is free; the migration is not forgotten"),
)
_TRACKER: Final = (
    ("do write held", "the request is heard; the ledger has no line"),
    ("did write held", "the line is written; it has not come back"),
    ("do tell reservation_granted", "the line has come back; the answer is not written"),
    ("do write confirmed", "the move's end is heard; the ledger says held"),
    ("do tell reservation_confirmed", "the ledger says confirmed; the answer is not written"),
    ("do write released", "the source's reservation stands"),
    ("do tell reservation_released", "it is released; the answer is not written"),
)
_CANCELLED: Final = (
    (Role.COORDINATOR, "do append abort_ordered", "hears the cancel; has told nobody"),
    (Role.SOURCE, "hear abort_wanted", "is told to abort; the machine runs, rounds go out"),
    (Role.SOURCE, "do append migration_abandoned", "has let go of the link; nothing is journaled"),
    (Role.DESTINATION, "do free_memory", "hears of the abort; the VMM is there"),
    (Role.DESTINATION, "do append image_discarded", "the VMM is gone; that is not journaled"),
    (Role.TRACKER, "do write released", "hears the end; the reservation stands"),
)
_TAKEN_BACK: Final = (
    (Role.SOURCE, "do compare_and_set", "wants the machine back; the register is not written"),
    (Role.SOURCE, "hear cas_settled", "the register gives it back; that is not journaled"),
    (Role.SOURCE, "do resume_machine", "that is journaled; the machine is paused"),
    (Role.SOURCE, "hear resumed", "the machine runs here; the end is not journaled"),
    (Role.DESTINATION, "do free_memory", "hears that it runs there; the image is whole"),
)
_RECLAIMED: Final = (
    (Role.SOURCE, "do compare_and_set", "wants to abort; the register is not written"),
    (Role.SOURCE, "do append abort_intended", "the register says so; that is not journaled"),
    (Role.DESTINATION, "hear cas_settled", "its claim is too late; it has promised nothing"),
    (Role.SOURCE, "hear peer_quarantined", "the promise is heard; the register says: abort"),
    (Role.SOURCE, "do append machine_taken_back", "the register gives it back; not journaled"),
    (Role.DESTINATION, "do free_memory", "hears that it runs there; the image is whole"),
)


def _of_role(key: str, role: Role, steps: tuple[tuple[str, str], ...]) -> tuple[Step, ...]:
    return tuple(
        Step(f"{key}{number}", role, name, meaning)
        for number, (name, meaning) in enumerate(steps, start=1)
    )


def _of_course(
    key: str, course: Course, steps: tuple[tuple[Role, str, str], ...]
) -> tuple[Step, ...]:
    return tuple(
        Step(f"{key}{number}", role, name, meaning, course)
        for number, (role, name, meaning) in enumerate(steps, start=1)
    )


OF_SOURCE: Final = _of_role("s", Role.SOURCE, _SOURCE)
OF_DESTINATION: Final = _of_role("d", Role.DESTINATION, _DESTINATION)
OF_COORDINATOR: Final = _of_role("c", Role.COORDINATOR, _COORDINATOR)
OF_TRACKER: Final = _of_role("t", Role.TRACKER, _TRACKER)
OF_CANCELLED: Final = _of_course("x", Course.CANCELLED, _CANCELLED)
OF_TAKEN_BACK: Final = _of_course("b", Course.TAKEN_BACK, _TAKEN_BACK)
OF_RECLAIMED: Final = _of_course("r", Course.RECLAIMED, _RECLAIMED)

HOST_STEPS: Final = OF_SOURCE + OF_DESTINATION
STEPS: Final = (
    HOST_STEPS + OF_COORDINATOR + OF_TRACKER + OF_CANCELLED + OF_TAKEN_BACK + OF_RECLAIMED
)

BEFORE_THE_SOURCE: Final = OF_DESTINATION[:2]
"""Steps of the destination when the source knows of no migration."""


def step(key: str) -> Step:
    """The step that heads the column ``key``."""
    return next(each for each in STEPS if each.key == key)
