"""What the log knows of a migration in doubt: who had what, what may be lost by which order. Pure.

It tells an operator; it decides nothing, and what it cannot see, such as facts that a dead host
never sent, it says that it cannot see.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from godwit_protocol import register as reg
from godwit_protocol.events import Lane, Recorded
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.projections import MigrationSummary, fold
from godwit_protocol.register import RegisterRecord

from .figures import clock
from .narrative import sentence


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One host, as far as the log has heard of it. ``facts``: the types of all that it said."""

    host: str
    facts: frozenset[str] = frozenset()
    last: Recorded | None = None

    @property
    def runs_nothing(self) -> bool:
        """Whether it has promised not to run the machine, or has said that it cannot."""
        told = {ev.ImageQuarantined.TYPE, ev.ImageDiscarded.TYPE, mev.MachineFailed.TYPE}
        return bool(self.facts & told)


class Doubt(msgspec.Struct, frozen=True, kw_only=True):
    """One migration, with its two hosts."""

    summary: MigrationSummary
    source: Side
    destination: Side
    alarms: tuple[Recorded, ...] = ()
    stunned_wall_ns: int = 0
    fenced: frozenset[str] = frozenset()
    """Hosts that are proven to be powered off."""

    def other(self, host: str) -> Side:
        """The side that is not ``host``."""
        return self.destination if host == self.source.host else self.source

    def is_proven_still(self, side: Side) -> bool:
        """Whether the log has the proof that a side runs nothing."""
        promised = side.runs_nothing and side is self.destination
        return promised or side.host in self.fenced or mev.MachineFailed.TYPE in side.facts


def picture(migration: str, told: Iterable[Recorded]) -> Doubt:
    """The migration as all of its events tell it, in the log's order."""
    doubt = Doubt(
        summary=MigrationSummary(id=migration), source=Side(host=""), destination=Side(host="")
    )
    for recorded in told:
        doubt = _after(doubt, recorded)
    summary = doubt.summary
    return _replace(
        doubt,
        source=_replace(doubt.source, host=summary.source),
        destination=_replace(doubt.destination, host=summary.destination),
    )


def _after(doubt: Doubt, recorded: Recorded) -> Doubt:
    envelope, event = recorded.envelope, recorded.event
    doubt = _replace(doubt, summary=fold(doubt.summary, recorded))
    if envelope.lane is Lane.SOURCE:
        doubt = _replace(doubt, source=_heard(doubt.source, recorded))
    elif envelope.lane is Lane.DESTINATION:
        doubt = _replace(doubt, destination=_heard(doubt.destination, recorded))
    match event:
        case ev.DoubtRaised():
            return _replace(doubt, alarms=(*doubt.alarms, recorded))
        case ev.MachineStunned():
            return _replace(doubt, stunned_wall_ns=envelope.wall_ns)
        case ev.HostFenced(target=target):
            return _replace(doubt, fenced=doubt.fenced | {target})
        case _:
            return doubt


def _heard(side: Side, recorded: Recorded) -> Side:
    return _replace(side, facts=side.facts | {recorded.envelope.type}, last=recorded)


def state_of_things(doubt: Doubt, record: RegisterRecord | None) -> Iterator[tuple[str, str]]:
    """Names and values: the alarms, the register, and the last word of each host."""
    for alarm in doubt.alarms[-3:]:
        assert isinstance(alarm.event, ev.DoubtRaised)
        when = clock(alarm.envelope.wall_ns)
        yield "alarm", f"{when} {alarm.envelope.host}: {alarm.event.message}"
    yield "register", register_words(record)
    for name, side in (("source", doubt.source), ("destination", doubt.destination)):
        said = "nothing of it is in the log"
        if side.last is not None:
            when = clock(side.last.envelope.wall_ns)
            said = f"last said at {when}: {sentence(side.last.event)}"
        yield name, f"{side.host}: {said}"


def register_words(record: RegisterRecord | None) -> str:
    """What the register says, in words."""
    if record is None:
        return "nothing"
    words = {
        reg.RegisterValue.ABORT_INTENDED: f"{record.owner} wants it back, nobody may run it",
        reg.RegisterValue.TAKEN_BACK: f"{record.owner} took it back",
        reg.RegisterValue.STOPPED: f"{record.owner} stopped it",
        reg.RegisterValue.LOST: "it is lost, nobody has it",
    }
    return f"{words.get(record.value, f'{record.owner} owns it')} (epoch {record.epoch})"


def losses(doubt: Doubt, record: RegisterRecord | None, run_on: str) -> tuple[str, ...]:
    """What may be lost, or go wrong, if the machine is run on ``run_on``: each a sentence."""
    other = doubt.other(run_on)
    side = doubt.other(other.host)
    if {mev.MachineFailed.TYPE, ev.ImageDiscarded.TYPE} & side.facts:
        return (
            f"{run_on} has said that it has nothing left to run. With proof that"
            f" {other.host} is off the machine is lost, and the migration ends.",
        )
    to_source = run_on == doubt.source.host
    told = _lost_on_source(doubt, record) if to_source else _lost_on_destination(doubt, record)
    if doubt.is_proven_still(other):
        return (*told, f"{other.host} is proven not to run the machine.")
    return (
        *told,
        f"Nothing in the log proves that {other.host} does not run the machine: it is asked for"
        " proof before anything runs.",
    )


def losses_of_all(doubt: Doubt) -> tuple[str, ...]:
    """What may be lost, or go wrong, if the machine is given up: each a sentence."""
    sides = (doubt.source, doubt.destination)
    still = [side.host for side in sides if doubt.is_proven_still(side)]
    asked = [side.host for side in sides if side.host not in still]
    proven = tuple(f"{host} is proven to have nothing to run." for host in still)
    return (
        f"The machine {doubt.summary.machine} is lost, with all that it did: what either host holds"
        " of it is ended as soon as its services look, and can never run again.",
        *proven,
        *(f"You vouch that {host} is powered off for good." for host in asked),
        "If a host is not off, and the machine runs there, it runs twice once it is started anew.",
    )


def _lost_on_source(doubt: Doubt, record: RegisterRecord | None) -> tuple[str, ...]:
    host, other = doubt.source.host, doubt.destination.host
    if ev.MachineStunned.TYPE not in doubt.source.facts:
        return (f"The log has not heard that {host} stunned the machine: it may still run there.",)
    since = clock(doubt.stunned_wall_ns)
    may_have_run = {ev.ActivationStarted.TYPE, ev.MachineActivated.TYPE} & doubt.destination.facts
    owned = record is not None and record.owner == other
    if may_have_run or owned:
        return (
            f"{host} goes on from the stun at {since}: whatever the machine did on {other} since"
            " then is lost, with the answers that it gave.",
        )
    return (f"{host} goes on from the stun at {since}; {other} is not known to have run it.",)


def _lost_on_destination(doubt: Doubt, record: RegisterRecord | None) -> tuple[str, ...]:
    host, other = doubt.destination.host, doubt.source.host
    since = clock(doubt.stunned_wall_ns) if doubt.stunned_wall_ns else "the stun"
    if ev.ImageStaged.TYPE not in doubt.destination.facts:
        return (f"The log has not heard that {host} has the whole machine: it may have nothing.",)
    taken_back = ev.MachineTakenBack.TYPE in doubt.source.facts
    if taken_back or (record is not None and record.value is reg.RegisterValue.TAKEN_BACK):
        return (
            f"{host} goes on from the stun at {since}: whatever the machine did on {other} since it"
            " was taken back is lost, with the answers that it gave.",
        )
    return (f"{host} goes on from the stun at {since}; {other} is not known to have run it since.",)


def command(summary: MigrationSummary) -> str:
    """What an operator can type."""
    hosts = "|".join(filter(None, (summary.source, summary.destination)))
    return f"godwit migration resolve {summary.id} --run-on {hosts}"


_replace = msgspec.structs.replace
