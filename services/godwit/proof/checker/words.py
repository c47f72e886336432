"""A trace in words, for a reader who has not seen the code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .cores import Operation, Work
from .facts import Fact
from .happenings import Label, What
from .moves import Moves
from .script import Message
from .search import Finding, Report, Step
from .world import DOWN, GONE, Image, Side, Violation, Vmm, World

SIDES: Final = ("source", "destination")
PEERS: Final = ("destination", "source")

RULES: Final[dict[Violation, str]] = {
    Violation.TWO_RUN: "I1 is broken: both hosts execute the machine",
    Violation.NONE_LEFT: "I2 is broken: the last current image was given up, and its host lives",
    Violation.STALE_RUNS: "I3 is broken: a stale image runs",
    Violation.REFUSED: "a core refuses what can happen to it",
    Violation.STUCK: "the machine is alive and recoverable, and can never run again",
    Violation.ENDLESS: "the coordinator can never end the migration",
    Violation.ENDED_WRONGLY: "the coordinator may give up a machine that a living host has",
}
_MESSAGES: Final[dict[Message, str]] = {
    Message.END: "that the direct link is gone",
    Message.HELLO: "Hello",
    Message.WELCOME: "Welcome",
    Message.STAGE: "that all pages were sent (STAGE)",
    Message.STAGED: "that the image is staged (STAGED)",
    Message.GO: "GO",
    Message.ACTIVE: "that the machine runs there (ACTIVE)",
    Message.REFUSE: "a refusal",
    Message.ABORT: "that the migration is aborted (ABORT)",
    Message.QUARANTINED: "that the image is quarantined",
    Message.RUNS: "that the machine runs there again (RUNS)",
}
_FACTS: Final[dict[int, str]] = {
    Fact.PREPARED: "that it is prepared",
    Fact.STUNNED: "FROZEN",
    Fact.GO_GIVEN: "GO",
    Fact.TAKEN_BACK: "that it took the machine back",
    Fact.ABORT_INTENDED: "that it wants the machine back",
    Fact.FAILED: "that its VMM is dead",
    Fact.DIED: "that its VMM is dead, to nobody in particular",
    Fact.REFUSED: "that it cannot prepare",
    Fact.RELEASED: "RELEASED",
    Fact.ABANDONED: "that the migration was abandoned",
    Fact.STAGED: "STAGED",
    Fact.DISCARDED: "that it discards the image",
    Fact.ACTIVATING: "ACTIVATING",
    Fact.QUARANTINED: "QUARANTINED",
    Fact.ACTIVATED: "that the machine runs on it",
}
_WORK: Final[dict[Work, tuple[str, str]]] = {
    Work.AWAIT_LOG: ("waits for the log", "the log acknowledges the intent to stun"),
    Work.OPEN_LINK: ("opens the link", "the link opens"),
    Work.SEND_ROUND: ("sends a round", "a round is sent and applied"),
    Work.PAUSE: ("asks its VMM to pause", "the VMM pauses the machine"),
    Work.SEND_FINAL: ("sends the last pages", "the last pages are sent"),
    Work.RESUME: ("asks its VMM to resume the machine", "the VMM resumes the machine"),
    Work.FREE: ("frees its memory", "the memory is freed"),
    Work.PREPARE: ("prepares a gated VMM", "the gated VMM is ready"),
    Work.POPULATE: ("populates the memory", "the memory is populated"),
    Work.LOAD: ("loads the image", "the whole image is loaded"),
    Work.OPEN_GATE: ("asks its VMM to open the gate", "the VMM opens the gate"),
    Work.READ_REGISTER: ("reads the register", "the register is read"),
    Work.WRITE_REGISTER: ("wants to write the register", "its write reaches the register"),
    Work.WRITTEN: ("waits for the register's answer", "the register's answer arrives"),
    Work.UNHEARD: ("must read the register back", "the register is read back"),
}
_SHOWN: Final = (
    "",
    ", and is shown an old value of the register",
    ", and is shown nothing of the register, of which its host has seen more",
)
_VMMS: Final[dict[Vmm, str]] = {
    Vmm.NONE: "has no VMM",
    Vmm.GATED: "holds a gated VMM",
    Vmm.LOADED: "holds a loaded VMM behind the gate",
    Vmm.RUNNING: "RUNS the machine",
    Vmm.PAUSED: "holds the machine paused",
    Vmm.DEAD: "holds nothing: the VMM is dead",
    Vmm.LOST: "holds nothing: the VMM died with the host",
}
_IMAGES: Final[dict[Image, str]] = {
    Image.NONE: "no image",
    Image.INCOMING: "an image that is not whole",
    Image.SPOILT: "an image that is not whole and out of date",
    Image.CURRENT: "the current image",
    Image.STALE: "a stale image",
}


def report_line(report: Report) -> str:
    """A report in one line."""
    seen = "all" if report.is_complete else "not all"
    return (
        f"{report.states} states ({seen} that there are), {report.transitions} steps, "
        f"depth {report.depth}, {report.seconds:.1f} s"
    )


def tell(moves: Moves, finding: Finding) -> str:
    """The whole trace, a step a line, each with what it led to."""
    lines = [RULES[finding.violation] + (f": {finding.refusal}" if finding.refusal else "")]
    before: Step | None = None
    for number, step in enumerate(finding.trace):
        if before is None or step.label is None:
            lines.append("   At first " + "; ".join(_first(moves, step.world)) + ".")
        else:
            lines.append(f"{number:2}. {_capital(sentence(step.label))}.")
            changes = "; ".join(_changes(moves, before.world, step.world))
            if changes:
                lines.append(f"      {changes}.")
        before = step
    assert before is not None
    lines.append("   In the end " + "; ".join(_first(moves, before.world)) + ".")
    return "\n".join(lines)


def sentence(label: Label) -> str:
    """What happens, in a sentence."""
    said = _happening(label)
    if label.crashes_after >= 0:
        said += f"; the {SIDES[label.who]}'s service crashes in the middle of what follows"
    return said


def fact_words(fact: int) -> str:
    """What a fact says."""
    return _FACTS[fact]


def _happening(label: Label) -> str:
    me, peer = SIDES[label.who], PEERS[label.who]
    match label.what:
        case What.HEARS:
            return f"the {me} hears on the link {_MESSAGES[Message(label.detail)]}"
        case What.LEARNS:
            return f"the {me} learns from the log of the {peer}'s fact {fact_words(label.detail)}"
        case What.DEADLINE:
            return f"a deadline of the {me} passes"
        case What.CANCEL:
            return f"the coordinator's order to abort reaches the {me}"
        case What.FENCED:
            return f"the {me} gets the proof that the {peer}'s host is fenced"
        case What.OVERRULE:
            back = "; its host has seen more of the register" if label.detail else ""
            return f"an operator orders the {me} to run the machine, knowing what may be lost{back}"
        case What.DONE:
            return f"{_WORK[Work(label.detail)][1]} ({me})"
        case What.READS_BACK:
            return f"the {me} cannot tell whether it wrote the register, and reads it back"
        case What.FAILS:
            return f"the {me}, which {_WORK[Work(label.detail)][0]}, is told that it failed"
        case What.NO_ANSWER:
            return f"the {me}, which {_WORK[Work(label.detail)][0]}, gets no answer"
        case What.OLD_READ:
            return f"the {me} is shown an old value of the register"
        case What.BREAKS:
            return f"something local fails at the {me}"
        case What.CRASH:
            return f"the {me}'s service crashes"
        case What.RESTART:
            return f"the {me}'s service is restarted, reads its journal{_SHOWN[label.detail]}"
        case What.STARTS:
            return "the coordinator starts the migration"
        case What.HOST_DIES:
            return f"the {me}'s host dies, with its VMM and its journal"
        case What.VMM_DIES:
            return f"the {me}'s VMM dies"
        case What.LINK_BREAKS:
            return "the direct link breaks"
        case What.LOSES:
            return f"the {me} does not hear {_MESSAGES[Message(label.detail)]}: the message is lost"
        case What.DOUBLES:
            heard = _MESSAGES[Message(label.detail)]
            return f"the {me} hears on the link, not for the last time, {heard}"
        case What.HEARS_AGAIN:
            return f"the {me} hears once more on the link {_MESSAGES[Message(label.detail)]}"
        case What.HOST_RETURNS:
            return f"the {me}'s host is switched on again, with its journal and without its VMM"
        case What.STOPPED:
            return f"an operator stops the {me}'s service, to start it anew"
        case What.SWITCHED_OFF:
            return f"an operator switches the {me}'s host off"
        case What.GIVE_UP:
            return "the coordinator gives the machine up: no host has anything of it"
        case What.WRITE_LOST:
            return "the register loses its last acknowledged write"
        case What.STRAY_LANDS:
            return "a register write that was given up for lost arrives after all"


def _first(moves: Moves, world: World) -> Iterator[str]:
    yield f"the register says {record_words(moves, world.register[-1])}"
    for who, side in enumerate((world.source, world.destination)):
        if side.role == GONE:
            yield f"the {SIDES[who]}'s host is dead"
        else:
            holds = f"{_VMMS[side.vmm]} with {_IMAGES[side.image]}"
            yield f"the {SIDES[who]} {holds} ({_phase(moves, world, who)})"


def _changes(moves: Moves, before: World, after: World) -> Iterator[str]:
    pairs = ((before.source, after.source), (before.destination, after.destination))
    for who, (old, new) in enumerate(pairs):
        if old.role != new.role and new.role >= 0:
            yield f"the {SIDES[who]} is {_phase(moves, after, who)}"
        yield from _deeds(moves, who, old, new, pairs[1 - who])
    if before.register != after.register:
        yield f"the register says {record_words(moves, after.register[-1])}"


def _deeds(
    moves: Moves, who: int, old: Side, new: Side, others: tuple[Side, Side]
) -> Iterator[str]:
    me = SIDES[who]
    for fact in Fact:
        if (new.journal | new.unsynced) & ~(old.journal | old.unsynced) & fact:
            yield f"the {me} journals {fact_words(fact)}"
    for operation in new.pending:
        if operation not in old.pending and operation.work is not Work.WRITTEN:
            yield f"the {me} {_doing(moves, operation)}"
    said = others[1].heard[len(others[0].heard) :]
    for message in said:
        if message is not Message.END:
            yield f"the {me} says {message.name}"
    if old.vmm is not new.vmm and new.role != GONE:
        yield f"the {me} now {_VMMS[new.vmm]}"
    outdated = (Image.SPOILT, Image.STALE)
    if new.image in outdated and old.image not in (*outdated, Image.NONE):
        yield f"the {PEERS[who]} has run the machine, so that the {me}'s image is out of date"


def _doing(moves: Moves, operation: Operation) -> str:
    if operation.work is Work.WRITE_REGISTER:
        return f"wants the register to say {record_words(moves, operation.record)}"
    return _WORK[operation.work][0]


def _phase(moves: Moves, world: World, who: int) -> str:
    side = (world.source, world.destination)[who]
    known = moves.known(world, who)
    if known is None:
        return "its service is down" if side.role == DOWN else "its service has nothing to do yet"
    alarm = ", and has raised the alarm" if known.is_alarmed else ""
    return f"in phase {known.phase}{alarm}"


def record_words(moves: Moves, number: int) -> str:
    """A register value as the design writes it, such as ``D(2)``."""
    record = moves.records[number]
    return f"{record.value.value}({record.epoch})"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
