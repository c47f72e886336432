"""Does the log hold together? Each lane's chain, and each migration's end. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from godwit_protocol import codec
from godwit_protocol.events import CHAIN_START, Recorded, stored_hash
from godwit_protocol.events import migration as ev

LaneKey = tuple[str, str, str]


def faults_of_lanes(stored: Iterable[tuple[bytes, int]]) -> list[str]:
    """What is wrong with the lanes of one scope: each event's bytes with its stream sequence.

    In each lane of each writer the sequence counts from 1 without a gap or a double, and each event
    carries the hash of the one before.
    """
    faults: list[str] = []
    positions: dict[LaneKey, tuple[int, bytes]] = {}
    for data, sequence in stored:
        envelope = codec.decode(data, sequence).envelope
        key = (envelope.correlation, envelope.lane, envelope.host)
        last, last_hash = positions.get(key, (0, CHAIN_START))
        where = f"{'/'.join(key)} at {sequence} ({envelope.type})"
        if envelope.lane_sequence != last + 1:
            faults.append(f"{where}: number {envelope.lane_sequence} comes after {last}")
        elif envelope.prev_hash != last_hash:
            faults.append(f"{where}: does not carry the hash of the event before")
        positions[key] = (envelope.lane_sequence, stored_hash(data))
    return faults


def faults_of_migration(events: Iterable[Recorded]) -> list[str]:
    """What is wrong with a migration that is over: it ends once, and nothing contradicts it."""
    types = [recorded.envelope.type for recorded in events]
    faults = [
        f"{kind.TYPE} stands {types.count(kind.TYPE)} times"
        for kind in (ev.MigrationEnded, ev.MachineActivated, ev.MachineReleased, ev.GoGiven)
        if types.count(kind.TYPE) > 1
    ]
    if ev.MigrationEnded.TYPE not in types:
        faults.append("it has no end")
    if {ev.MachineActivated.TYPE, ev.MachineTakenBack.TYPE} <= set(types):
        faults.append("activated and taken back, both")
    return faults
