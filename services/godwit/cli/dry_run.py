"""``godwit migrate NAME --to HOST --dry-run``: what would be decided, all of it at once.

Reads the log as the coordinator would and judges by the same pure checks. Writes nothing.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from godwit.pictures import reading
from godwit.pictures.estimates import forecast_json, forecast_text
from godwit.pictures.figures import count
from godwit.pictures.machines import find_live_machine
from godwit.pictures.migrations import ADMISSION_HINT
from godwit.pictures.narrative import reason
from godwit_protocol.compatibility.verdict import Status, Verdict
from godwit_protocol.errors import ConflictError, InvalidInputError, RefusedError
from godwit_protocol.estimation.admission import (
    Admission,
    AdmissionPolicy,
    AdmissionVerdict,
    admit,
)
from godwit_protocol.estimation.forecast import Forecast
from godwit_protocol.events.migration import Limits

from . import output

if TYPE_CHECKING:
    from godwit.runtime.event_log import EventLog
    from godwit_protocol.catalogue import Catalogue


class DryRun(msgspec.Struct, frozen=True, kw_only=True):
    """What a migration asked for now would meet."""

    machine: str
    source: str
    destination: str
    verdicts: tuple[Verdict, ...]
    forecast: Forecast
    admission: AdmissionVerdict

    @property
    def refusals(self) -> tuple[Verdict, ...]:
        """What is in the way."""
        return tuple(verdict for verdict in self.verdicts if verdict.refuses)

    @property
    def is_admitted(self) -> bool:
        """Whether the stun limit lets it begin."""
        return self.admission.admission is not Admission.REFUSED

    def as_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {
            "machine": self.machine,
            "source": self.source,
            "destination": self.destination,
            "movable": not self.refusals and self.is_admitted,
            "verdicts": [msgspec.to_builtins(verdict) for verdict in self.verdicts],
            "estimate": forecast_json(self.destination, self.forecast),
            "admission": msgspec.to_builtins(self.admission),
        }


async def dry_run(
    log: EventLog,
    catalogue: Catalogue,
    name: str,
    to: str,
    limits: Limits,
    policy: AdmissionPolicy,
) -> DryRun:
    """Judge moving machine ``name`` to host ``to`` within ``limits``.

    Raises ``NotFoundError``, ``ConflictError`` if it is there already or is being moved,
    ``UnreachableError``.
    """
    from godwit.coordinator.compatibility import gather
    from godwit.coordinator.links import look_at_link
    from godwit.estimation.reading import forecasts
    from godwit.runtime.clock import SystemClock
    from godwit_protocol.compatibility.judging import judge

    picture = await find_live_machine(log, name)
    await reading.require_host(log, to)
    if picture.host == to:
        raise ConflictError(f"machine {name} runs on {to} already")
    if picture.migration:
        raise ConflictError(f"migration {picture.migration} is moving machine {name}")
    if picture.spec is None:
        raise InvalidInputError(f"the log does not say what machine {name} is made of")
    links = partial(look_at_link, log, SystemClock())
    case = await gather(log, catalogue, picture.spec, picture.host, to, links)
    verdicts = judge(case).verdicts
    forecast = (await forecasts(log, name, picture.host, (to,), limits))[to]
    return DryRun(
        machine=name,
        source=picture.host,
        destination=to,
        verdicts=verdicts,
        forecast=forecast,
        admission=admit(forecast, limits.longest_stun_ns, policy),
    )


def show(found: DryRun) -> None:
    """Print every verdict, those that refuse too."""
    rows = [_row(verdict) for verdict in found.verdicts]
    output.print_table(("CHECK", "VERDICT", "REASON", "HINT"), rows, "nothing had to be checked")
    output.print_line(f"estimate: {forecast_text(found.forecast)}")
    if not found.refusals and found.is_admitted:
        output.print_line(
            f"machine {found.machine} can move from {found.source} to {found.destination};"
            " nothing has been moved"
        )


def error_of(found: DryRun) -> RefusedError | None:
    """What the command ends with if anything refuses."""
    if not found.refusals and found.is_admitted:
        return None
    if not found.refusals:
        return RefusedError(found.admission.message, hint=ADMISSION_HINT)
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
