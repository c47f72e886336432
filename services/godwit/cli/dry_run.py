"""``godwit migrate NAME --to HOST --dry-run``: what would be decided, all of it at once.

Reads the log as the coordinator would and judges by the same pure checks. Writes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from godwit_protocol.compatibility.verdict import Status, Verdict
from godwit_protocol.errors import ConflictError, InvalidInputError, RefusedError

from . import output, reading
from .figures import count
from .machine_pictures import find_live_machine
from .narrative import reason

if TYPE_CHECKING:
    from godwit.runtime.event_log import EventLog
    from godwit_protocol.catalogue import Catalogue


class DryRun(msgspec.Struct, frozen=True, kw_only=True):
    """What a migration asked for now would meet."""

    machine: str
    source: str
    destination: str
    verdicts: tuple[Verdict, ...]

    @property
    def refusals(self) -> tuple[Verdict, ...]:
        """What is in the way."""
        return tuple(verdict for verdict in self.verdicts if verdict.refuses)

    def as_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {
            "machine": self.machine,
            "source": self.source,
            "destination": self.destination,
            "movable": not self.refusals,
            "verdicts": [msgspec.to_builtins(verdict) for verdict in self.verdicts],
        }


async def dry_run(log: EventLog, catalogue: Catalogue, name: str, to: str) -> DryRun:
    """Judge moving machine ``name`` to host ``to``.

    Raises ``NotFoundError``, ``ConflictError`` if it is there already or is being moved,
    ``UnreachableError``.
    """
    from godwit.coordinator.compatibility import gather
    from godwit_protocol.compatibility.judging import judge

    picture = await find_live_machine(log, name)
    await reading.require_host(log, to)
    if picture.host == to:
        raise ConflictError(f"machine {name} runs on {to} already")
    if picture.migration:
        raise ConflictError(f"migration {picture.migration} is moving machine {name}")
    if picture.spec is None:
        raise InvalidInputError(f"the log does not say what machine {name} is made of")
    case = await gather(log, catalogue, picture.spec, picture.host, to)
    verdicts = judge(case).verdicts
    return DryRun(machine=name, source=picture.host, destination=to, verdicts=verdicts)


def show(found: DryRun) -> None:
    """Print every verdict, those that refuse too."""
    rows = [_row(verdict) for verdict in found.verdicts]
    output.print_table(("CHECK", "VERDICT", "REASON", "HINT"), rows, "nothing had to be checked")
    if not found.refusals:
        output.print_line(
            f"machine {found.machine} can move from {found.source} to {found.destination};"
            " nothing has been moved"
        )


def error_of(found: DryRun) -> RefusedError | None:
    """What the command ends with if anything refuses."""
    if not found.refusals:
        return None
    refusals, checks = len(found.refusals), count(len(found.verdicts), "check")
    return RefusedError(
        f"machine {found.machine} cannot move to {found.destination}:"
        f" {refusals} of {checks} {'refuses' if refusals == 1 else 'refuse'}",
        hint="docs/compatibility.md says what each check wants",
    )


def _row(verdict: Verdict) -> tuple[str, str, str, str]:
    check = reason(verdict.check)
    about = f"{check} ({verdict.about})" if verdict.about else check
    said = _WORDS[verdict.status]
    return about, said, verdict.reason, verdict.hint if verdict.refuses else ""


_WORDS = {
    Status.OK: "ok",
    Status.REFUSED: "REFUSED",
    Status.UNKNOWN: "UNKNOWN, so refused",
}
