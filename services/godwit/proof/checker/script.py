"""What is said in the checked world: one migration, and each input in its one form.

A figure, a size or a reason never decides whether a machine may run, so that one of each will do.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from godwit_protocol import link
from godwit_protocol import register as reg
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import AbortReason
from godwit_protocol.machine import MachineSpec
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.inputs import Input

MIGRATION: Final = "m"
SOURCE_HOST: Final = "host-1"
DESTINATION_HOST: Final = "host-2"
HOSTS: Final = (SOURCE_HOST, DESTINATION_HOST)
WHY: Final = AbortReason.CANCELLED
_SPEC: Final = MachineSpec(name="machine", guest="guests:Any", ram_bytes=4096)

ORDERED: Final = ev.PreparationOrdered(
    spec=_SPEC,
    source=SOURCE_HOST,
    destination=DESTINATION_HOST,
    register_epoch=1,
    limits=ev.Limits(),
    verify=ev.Verify.OFF,
)
STARTED: Final = ev.MigrationStarted(
    source=SOURCE_HOST,
    destination=DESTINATION_HOST,
    address="link",
    port=1,
    token=b"",
    register_epoch=1,
    limits=ev.Limits(),
    verify=ev.Verify.OFF,
)

FIRST_RECORD: Final = reg.started(_SPEC.name, SOURCE_HOST, None)
"""What stands when the migration begins: S(1), the source owns the machine."""


class Message(IntEnum):
    """What the hosts say to each other on the direct link."""

    END = 0
    """The connection's end: what follows never comes."""
    HELLO = 1
    WELCOME = 2
    STAGE = 3
    STAGED = 4
    GO = 5
    ACTIVE = 6
    REFUSE = 7
    ABORT = 8
    QUARANTINED = 9
    RUNS = 10


_MESSAGES: Final[dict[type[link.LinkMessage], Message]] = {
    link.Hello: Message.HELLO,
    link.Welcome: Message.WELCOME,
    link.Stage: Message.STAGE,
    link.Staged: Message.STAGED,
    link.Go: Message.GO,
    link.Active: Message.ACTIVE,
    link.Refuse: Message.REFUSE,
    link.Abort: Message.ABORT,
    link.Quarantined: Message.QUARANTINED,
    link.Runs: Message.RUNS,
}


def message_of(message: link.LinkMessage) -> Message:
    """The message without what it carries."""
    return _MESSAGES[type(message)]


LINK_LOST: Final = inp.LinkLost(message="")
FAILED: Final = inp.OperationFailed(message="")
TICK: Final = inp.Tick()
ABORT_WANTED: Final = inp.AbortWanted(reason=WHY)
PEER_FENCED: Final = inp.PeerFenced()
LOGGED: Final = inp.Appended(type=ev.StunIntended.TYPE)
NOT_LOGGED: Final = inp.AppendFailed(type=ev.StunIntended.TYPE, message="")
UNCLEAR: Final = inp.CasUnclear(message="")
LINK_UP: Final = inp.LinkUp(connections=1, resident_bytes=1, populate_ns=1)
PAUSED: Final = inp.Paused(stopped_ns=1, checkpoint_bytes=1)
FINAL_SENT: Final = inp.FinalSent(pages=1, sent_bytes=1, scan_ns=1, sent_ns=1)
RESUMED: Final = inp.Resumed(first_step_ns=2)
FREED: Final = inp.MemoryFreed()
PREPARED: Final = inp.Prepared(address="link", port=1, token=b"", create_ns=1)
POPULATED: Final = inp.Populated(populate_ns=1)
LOADED: Final = inp.ImageLoaded(pages=1, received_bytes=1, received_ns=1, staged_ns=1)
BAD_IMAGE: Final = inp.ImageBad(reason=WHY, message="")
GATE_OPENED: Final = inp.GateOpened(owned_ns=1, first_step_ns=1)
PEER_RUNS: Final = inp.PeerRuns()
PEER_ABORT: Final = inp.PeerAbort(reason=WHY)
PEER_QUARANTINED: Final = inp.PeerQuarantined()
PEER_ACTIVE: Final = inp.PeerActive(epoch=2)
ROUND_DONE: Final = inp.RoundDone(
    figures=ev.RoundFigures(
        round=1,
        pages=1,
        sent_bytes=4096,
        wire_bytes=4096,
        duration_ns=1_000_000,
        scan_ns=1,
        remaining_bytes=0,
    )
)
"""Nothing is dirty after it: the source stuns."""

HEARD: Final[dict[Message, Input]] = {
    Message.END: LINK_LOST,
    Message.HELLO: inp.PeerHello(register_epoch=1),
    Message.STAGE: inp.PeerStage(verify=ev.Verify.OFF),
    Message.STAGED: inp.PeerStaged(heard_ns=1),
    Message.GO: inp.PeerGo(heard_ns=1),
    Message.ACTIVE: PEER_ACTIVE,
    Message.REFUSE: inp.PeerRefused(reason=WHY, message=""),
    Message.ABORT: PEER_ABORT,
    Message.QUARANTINED: PEER_QUARANTINED,
    Message.RUNS: PEER_RUNS,
}
"""What hearing it tells the role; WELCOME completes the opening of the link instead."""
