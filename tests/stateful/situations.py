"""Every situation that a role can be in, and all that it can be told there, each named in words.

A situation is a phase's plainest state with at most one thing changed. The inputs are one of each
kind, and more where a handler looks at what they hold. Together they ask every guard of the cores,
whether some world leads there or not.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from typing import Any, NamedTuple

import msgspec
from parts import COORDINATOR, DESTINATION, LIMITS, MIGRATION, SOURCE, SPEC, START_NS, Role

from godwit_protocol import register as reg
from godwit_protocol.compatibility.verdict import Check, refused
from godwit_protocol.estimation.admission import Admission
from godwit_protocol.events.estimate import EstimateMade
from godwit_protocol.events.migration import AbortReason, Limits, RoundFigures, Verify
from godwit_protocol.events.reservation import Placement
from godwit_protocol.register import RegisterRecord, RegisterValue, RegisterView
from godwit_protocol.roles import coordinator, destination, source_state
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.destination_state import DestinationState
from godwit_protocol.roles.inputs import Input
from godwit_protocol.roles.source_state import UNCLEAR_ALARM, SourceState

SECOND_NS = 1_000_000_000
SOON_NS = START_NS + SECOND_NS
DEADLINE_NS = START_NS + 10 * SECOND_NS
LAST_NS = START_NS + 20 * SECOND_NS
OTHER = "00e8d4a5-1000-7000-8000-0000000000ff"
"""Another migration."""


class Given(NamedTuple):
    """An input, when it comes, and its name."""

    name: str
    told: Input
    now_ns: int = SOON_NS


class Situation(NamedTuple):
    """A state, and how it differs from its phase's plainest; "" if it does not."""

    name: str
    state: Any


def record(
    value: RegisterValue, owner: str, epoch: int, migration: str = MIGRATION
) -> RegisterRecord:
    return RegisterRecord(
        value=value,
        machine=SPEC.name,
        owner=owner,
        epoch=epoch,
        migration=migration,
        nonce=f"{migration}/{owner}/{value}/{epoch}",
    )


@cache
def registers() -> dict[str, RegisterView]:
    """All that a register may hold, in words."""
    value, here, there = RegisterValue, SOURCE.host, DESTINATION.host
    held = {
        "S(1)": reg.started(SPEC.name, here, None),
        "B(1)": record(value.ABORT_INTENDED, here, 1),
        "another's B(1)": record(value.ABORT_INTENDED, here, 1, OTHER),
        "S2(2)": record(value.TAKEN_BACK, here, 2),
        "another's S2(2)": record(value.TAKEN_BACK, here, 2, OTHER),
        "D(2)": record(value.MOVED, there, 2),
        "another's D(2)": record(value.MOVED, there, 2, OTHER),
        "another's D(2) here": record(value.MOVED, here, 2, OTHER),
        "D(2) of a third host": record(value.MOVED, "host-3", 2),
        "stopped": record(value.STOPPED, here, 1, ""),
        "lost(3)": record(value.LOST, "", 3, ""),
    }
    views = {name: RegisterView(found, 7) for name, found in held.items()}
    return {**views, "nothing": RegisterView(None, 0)}


def phases(role: Role) -> type[StrEnum]:
    kinds: dict[Role, type[StrEnum]] = {
        SOURCE: source_state.Phase,
        DESTINATION: destination.Phase,
        COORDINATOR: coordinator.Phase,
    }
    return kinds[role]


@cache
def situations(role: Role, phase: StrEnum) -> tuple[Situation, ...]:
    """The phase's plainest state first."""
    plain = _PLAIN[role](phase)
    changed = (
        Situation(name, msgspec.structs.replace(plain, **changes))
        for name, changes in _CHANGES[role].items()
    )
    return (Situation("", plain), *changed)


def _source(phase: StrEnum) -> SourceState:
    return SourceState(
        phase=source_state.Phase(phase),
        migration=MIGRATION,
        machine=SPEC.name,
        host=SOURCE.host,
        destination=DESTINATION.host,
        limits=LIMITS,
        verify=Verify.OFF,
        register=registers()["S(1)"],
        found_epoch=1,
        deadline_ns=DEADLINE_NS,
        migration_deadline_ns=LAST_NS,
        rounds_sent=2,
        stopped_ns=START_NS,
    )


def _destination(phase: StrEnum) -> DestinationState:
    return DestinationState(
        phase=destination.Phase(phase),
        migration=MIGRATION,
        machine=SPEC.name,
        host=DESTINATION.host,
        source=SOURCE.host,
        verify=Verify.OFF,
        register=registers()["S(1)"],
        found_epoch=1,
        deadline_ns=DEADLINE_NS,
        alarm_ns=LAST_NS,
    )


def _coordinator(phase: StrEnum) -> coordinator.CoordinatorState:
    return coordinator.CoordinatorState(
        phase=coordinator.Phase(phase),
        migration=MIGRATION,
        machine=SPEC.name,
        source=SOURCE.host,
        destination=DESTINATION.host,
        epoch=1,
        limits=LIMITS,
        spec=SPEC,
        ready=inp.DestinationReady(address="10.0.0.2", port=7000, token=b"secret"),
        deadline_ns=DEADLINE_NS,
        migration_deadline_ns=LAST_NS,
    )


def _figures(remaining_bytes: int, duration_ns: int = 10_000_000) -> RoundFigures:
    return RoundFigures(
        round=2,
        pages=1024,
        sent_bytes=4_194_304,
        wire_bytes=4_194_304,
        duration_ns=duration_ns,
        scan_ns=100_000,
        remaining_bytes=remaining_bytes,
    )


_PLAIN: dict[Role, Any] = {
    SOURCE: _source,
    DESTINATION: _destination,
    COORDINATOR: _coordinator,
}
HOLDS = "the register holds "
_BY_REGISTER = {
    f"{HOLDS}{name}": {"register": registers()[name]}
    for name in ("B(1)", "another's B(1)", "S2(2)", "another's S2(2)", "D(2)", "nothing")
}
_ABORTED = {"abort_reason": AbortReason.CANCELLED, "abort_message": "an operator cancelled"}
_CHANGES: dict[Role, dict[str, dict[str, Any]]] = {
    SOURCE: {
        "it is being aborted": _ABORTED,
        "the destination has quarantined": {"quarantined": True},
        "the destination is fenced": {"fenced": True},
        "the destination is fenced, the register holds S2(2)": {
            "fenced": True,
            "register": registers()["S2(2)"],
        },
        "the destination is fenced, the alarm is raised": {"fenced": True, "alarmed": True},
        "the destination is fenced, the register holds nothing": {
            "fenced": True,
            "register": registers()["nothing"],
        },
        "it gave up": {"gave_up": True},
        "it gave up, the destination is fenced": {"gave_up": True, "fenced": True},
        "the alarm is raised": {"alarmed": True},
        "the register has been unclear often": {"unclear": UNCLEAR_ALARM - 1},
        "it has never stopped": {"stopped_ns": 0},
        "the guest is slowed, and not enough": {
            "slow_percent": 20,
            "history": (_figures(2_097_152),) * 4,
            "limits": msgspec.structs.replace(LIMITS, stun_limit_ns=1000, slow_percent_max=80),
        },
        "all is to be verified": {"verify": Verify.FULL},
        "a third bandwidth was ordered": {"bandwidth_change": 3},
        "the migration's deadline comes first": {
            "deadline_ns": LAST_NS,
            "migration_deadline_ns": DEADLINE_NS,
        },
        "no round is to be sent": {"limits": msgspec.structs.replace(LIMITS, rounds_max=0)},
        "another migration brought the machine": {
            "found_epoch": 2,
            "register": registers()["another's D(2) here"],
        },
        **_BY_REGISTER,
    },
    DESTINATION: {
        "it is being aborted": _ABORTED,
        "the source is fenced": {"fenced": True},
        **{
            f"the source is fenced, {name}": {"fenced": True, **changes}
            for name, changes in _BY_REGISTER.items()
        },
        "the alarm is raised": {"alarmed": True},
        "the alarm is due": {"alarm_ns": SOON_NS},
        "the register has been unclear often": {"unclear": UNCLEAR_ALARM - 1},
        "all is to be verified": {"verify": Verify.FULL},
        **_BY_REGISTER,
    },
    COORDINATOR: {
        "an operator cancelled": {"cancelled": True},
        "an operator asked for a bandwidth": {"bandwidth_bytes_per_second": 250_000},
        "a bandwidth was ordered": {"bandwidth_changes": 1},
        "the preparation is ordered": {"preparation_ordered": True},
        "nobody listens": {"ready": None},
        "the alarm is raised": {"alarmed": True},
        "the migration's deadline comes first": {
            "deadline_ns": LAST_NS,
            "migration_deadline_ns": DEADLINE_NS,
        },
        "GPUs are chosen": {"gpus": (1,)},
        "the source has nothing left": {"lost": (SOURCE.host,)},
        "the destination has nothing left": {"lost": (DESTINATION.host,)},
        "the source is off": {"lost": (SOURCE.host,), "some_host_off": True},
        "the destination is off": {"lost": (DESTINATION.host,), "some_host_off": True},
    },
}


def given_inputs(role: Role) -> list[Given]:
    """All that the role can be told; a tick comes a moment before the deadline, and at it."""
    if role is COORDINATOR:
        return [*_ticks(), *_told_to_coordinator()]
    return [*_ticks(), *_told_to_both(), *(_TOLD[role])]


def _ticks() -> list[Given]:
    return [
        Given("Tick before the deadline", inp.Tick(), DEADLINE_NS - 1),
        Given("Tick at the deadline", inp.Tick(), DEADLINE_NS),
        Given("Tick at the last deadline", inp.Tick(), LAST_NS),
    ]


def _told_to_both() -> list[Given]:
    named = [
        Given("LinkLost", inp.LinkLost(message="the peer closed the link")),
        Given("LinkLost at the deadline", inp.LinkLost(message="it is closed"), DEADLINE_NS),
        Given("OperationFailed", inp.OperationFailed(message="no such VMM")),
        Given("AbortWanted", inp.AbortWanted(reason=AbortReason.CANCELLED, message="cancelled")),
        Given("PeerFenced", inp.PeerFenced()),
        Given("RunOrdered", inp.RunOrdered()),
        Given("RunOrdered over S(1)", inp.RunOrdered(standing=registers()["S(1)"])),
        Given(
            "RunOrdered over another's D(2)", inp.RunOrdered(standing=registers()["another's D(2)"])
        ),
        Given("CasUnclear", inp.CasUnclear(message="no answer")),
    ]
    for name, view in registers().items():
        if view.record is not None:
            won = inp.CasSettled(won=True, standing=view)
            named.append(Given(f"CasSettled: won, {name}", won))
        named.append(Given(f"CasSettled: lost to {name}", inp.CasSettled(won=False, standing=view)))
        named.append(Given(f"RegisterRead: {name}", inp.RegisterRead(standing=view)))
    return named


_FINAL_SENT = inp.FinalSent(pages=1, sent_bytes=4096, scan_ns=1, sent_ns=SOON_NS, digest_ns=3)
_TOLD: dict[Role, list[Given]] = {
    SOURCE: [
        *(
            Given(
                f"BandwidthOrdered: the {nth}",
                inp.BandwidthOrdered(change=change, bytes_per_second=125_000),
            )
            for nth, change in (("first", 1), ("third", 3), ("fourth", 4))
        ),
        Given("LinkUp", inp.LinkUp(connections=2, resident_bytes=16384, populate_ns=5)),
        Given("RoundDone: little is left", inp.RoundDone(figures=_figures(0))),
        Given("RoundDone: much is left", inp.RoundDone(figures=_figures(2_097_152))),
        Given("Appended", inp.Appended(type="stun_intended")),
        Given("JournalFull", inp.JournalFull(message="no room")),
        Given("AppendFailed", inp.AppendFailed(type="stun_intended", message="no answer")),
        Given("Paused", inp.Paused(stopped_ns=SOON_NS, checkpoint_bytes=512)),
        Given("FinalSent: in time", _FINAL_SENT),
        Given("FinalSent: when the stun's limit is over", _FINAL_SENT, DEADLINE_NS),
        Given("Resumed", inp.Resumed(first_step_ns=SOON_NS)),
        Given("MemoryFreed", inp.MemoryFreed()),
        Given("MemoryLeft", inp.MemoryLeft(message="it does not die")),
        Given(
            "PeerRefused",
            inp.PeerRefused(reason=AbortReason.VERIFICATION_FAILED, message="ram differs"),
        ),
        Given("PeerStaged", inp.PeerStaged(heard_ns=SOON_NS)),
        Given("PeerActive", inp.PeerActive(epoch=2)),
        Given("PeerQuarantined", inp.PeerQuarantined()),
    ],
    DESTINATION: [
        Given(
            "Prepared", inp.Prepared(address="10.0.0.2", port=7000, token=b"secret", create_ns=5)
        ),
        Given("Populated", inp.Populated(populate_ns=5)),
        Given("RoundReceived", inp.RoundReceived(round=2, pages=1, received_bytes=4096)),
        Given(
            "ImageLoaded",
            inp.ImageLoaded(pages=1, received_bytes=4096, received_ns=1, staged_ns=SOON_NS),
        ),
        Given(
            "ImageBad", inp.ImageBad(reason=AbortReason.VERIFICATION_FAILED, message="ram differs")
        ),
        Given("GateOpened", inp.GateOpened(owned_ns=START_NS, first_step_ns=SOON_NS)),
        Given("MemoryFreed", inp.MemoryFreed()),
        Given("MemoryLeft", inp.MemoryLeft(message="it does not die")),
        Given("PeerHello: epoch 1", inp.PeerHello(register_epoch=1)),
        Given("PeerHello: epoch 2", inp.PeerHello(register_epoch=2)),
        Given("PeerStage", inp.PeerStage(verify=Verify.FULL)),
        Given("PeerGo", inp.PeerGo(heard_ns=SOON_NS)),
        Given("PeerAbort", inp.PeerAbort(reason=AbortReason.CANCELLED)),
        Given("PeerRuns", inp.PeerRuns()),
    ],
}


_LARGER = msgspec.structs.replace(SPEC, ram_bytes=2 * SPEC.ram_bytes)


def _placed(profile: str) -> tuple[Placement, ...]:
    return (Placement(gpu=0, profile=profile, framebuffer_bytes=4 * 1024**3),)


def _told_to_coordinator() -> list[Given]:
    return [
        *(Given(f"Considered: {name}", told) for name, told in _requests().items()),
        Given("ClaimSettled: won", inp.ClaimSettled(won=True, holder=MIGRATION)),
        Given("ClaimSettled: lost", inp.ClaimSettled(won=False, holder=OTHER)),
        Given("ClaimReleased", inp.ClaimReleased()),
        Given("Granted: as wanted", inp.Granted(placements=_placed(SPEC.vgpus[0].profile))),
        Given("Granted: other vGPUs", inp.Granted(placements=_placed("H100XM-8C"))),
        Given(
            "Refused", inp.Refused(reason=AbortReason.RESERVATION_REFUSED, message="no such vGPU")
        ),
        Given("DestinationReady", inp.DestinationReady(address="10.0.0.9", port=9, token=b"other")),
        Given(
            "PreparationKnown",
            inp.PreparationKnown(spec=_LARGER, source="host-9", register_epoch=9),
        ),
        Given("StartKnown: yes", inp.StartKnown(start=True, reason=AbortReason.NONE, message="")),
        Given(
            "StartKnown: no",
            inp.StartKnown(start=False, reason=AbortReason.CANCELLED, message="cancelled"),
        ),
        Given("EndKnown", inp.EndKnown()),
        Given("CancelWanted", inp.CancelWanted()),
        Given(
            "BandwidthWanted",
            inp.BandwidthWanted(order="1", bytes_per_second=125_000, requested_by="an operator"),
        ),
        Given(
            "SourceAbandoned",
            inp.SourceAbandoned(reason=AbortReason.MACHINE_FAILED, message="the guest failed"),
        ),
        Given("ImageLost of the source", inp.ImageLost(host=SOURCE.host)),
        Given("ImageLost of the destination", inp.ImageLost(host=DESTINATION.host)),
        Given("ImageLost of a third host", inp.ImageLost(host="host-3")),
        Given("ImageLost: the source is off", inp.ImageLost(host=SOURCE.host, is_off=True)),
        Given("ImageLost: a third host is off", inp.ImageLost(host="host-3", is_off=True)),
        Given("WrittenOff in epoch 3", inp.WrittenOff(epoch=3)),
        Given("WrittenOff: it has gone on", inp.WrittenOff(epoch=0)),
        Given("Activated", inp.Activated()),
        Given("SourceReleased", inp.SourceReleased()),
        Given("Appended", inp.Appended(type="start_decided")),
    ]


def _requests() -> dict[str, inp.Considered]:
    good = inp.Considered(
        machine=SPEC.name,
        destination=DESTINATION.host,
        limits=Limits(deadline_ns=60 * SECOND_NS),
        verify=Verify.FULL,
        spec=SPEC,
        record=reg.started(SPEC.name, SOURCE.host, None),
        destination_known=True,
        gpus=(0, 1),
    )
    in_the_way = refused(Check.DRIVER, "550 is not 535")
    changes: dict[str, dict[str, Any]] = {
        "all is well": {},
        "no machine of that name": {"spec": None},
        "nothing in the register": {"record": None},
        "the machine is stopped": {"record": registers()["stopped"].record},
        "the machine is in doubt": {"record": registers()["B(1)"].record},
        "no host of that name": {"destination_known": False},
        "it is there already": {"destination": SOURCE.host},
        "the hosts do not go together": {"refusals": (in_the_way,)},
        "the hosts do not go together twice": {"refusals": (in_the_way, in_the_way)},
        "it is estimated, and admitted": {"estimated": _estimated(Admission.ADMITTED)},
        "it is estimated, and not admitted": {"estimated": _estimated(Admission.REFUSED)},
        "it is estimated, and not there": {
            "estimated": _estimated(Admission.ADMITTED),
            "destination_known": False,
        },
    }
    return {name: msgspec.structs.replace(good, **change) for name, change in changes.items()}


def _estimated(admission: Admission) -> EstimateMade:
    return EstimateMade(
        source=SOURCE.host,
        destination=DESTINATION.host,
        stun_limit_ns=SECOND_NS,
        admission=admission,
        message="what was estimated",
    )
