"""Every event type has a sentence, and the sentences say what matters."""

import msgspec
import pytest

from godwit.pictures import narrative
from godwit.pictures.narrative import Narrator, sentence
from godwit_protocol import codec
from godwit_protocol.compression import Compression
from godwit_protocol.convergence import Decision, DecisionReason
from godwit_protocol.events import (
    CHAIN_START,
    EVENT_TYPES,
    Envelope,
    Event,
    Lane,
    Recorded,
    UnknownEvent,
)
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.machine import MachineSpec, VGpuSpec

SPEC = MachineSpec(
    name="searcher",
    guest="some:Guest",
    ram_bytes=64 * 2**20,
    vgpus=(VGpuSpec("H100XM-4C", 4 * 2**30),),
)


def filled(cls: type[Event]) -> Event:
    """An event of the type with a plausible value in every required field."""
    values = {
        field.name: value_of(field.type) for field in msgspec.structs.fields(cls) if field.required
    }
    return cls(**values)


def value_of(kind: object) -> object:
    simple = {bool: True, str: "something", int: 7, float: 7.5, bytes: b"token"}
    if kind in simple:
        return simple[kind]
    if kind is MachineSpec:
        return SPEC
    info = msgspec.inspect.type_info(kind)
    match info:
        case msgspec.inspect.EnumType(cls=cls):
            return next(iter(cls))
        case msgspec.inspect.StructType(cls=cls):
            return filled(cls)
        case msgspec.inspect.VarTupleType() | msgspec.inspect.ListType():
            return ()
        case msgspec.inspect.DictType():
            return {}
    raise AssertionError(f"no value for {kind}")


def recorded(event: Event, *, type_: str = "", migration: str = "m", wall_ns: int = 1) -> Recorded:
    envelope = Envelope(
        id="id",
        type=type_ or event.TYPE,
        migration=migration,
        machine="searcher",
        lane=Lane.SOURCE,
        lane_sequence=1,
        host="host-1",
        wall_ns=wall_ns,
        monotonic_ns=1,
        boot="boot",
        prev_hash=CHAIN_START,
        body=codec.encode_body(event),
    )
    return Recorded(envelope, event, 1)


@pytest.mark.parametrize("cls", EVENT_TYPES.values(), ids=EVENT_TYPES)
def test_every_event_type_has_a_sentence_of_its_own(cls: type[Event]) -> None:
    event = filled(cls)
    told = sentence(event)
    assert told != narrative.generic(event)
    assert "\n" not in told
    assert "_" not in told.replace("H100XM", "")
    assert len(told) > 10


def test_a_round_is_told_with_its_numbers_and_its_reason() -> None:
    told = sentence(
        ev.RoundCompleted(
            figures=ev.RoundFigures(
                round=2,
                pages=512,
                sent_bytes=2 * 2**20,
                wire_bytes=2 * 2**20,
                duration_ns=4_000_000,
                scan_ns=1,
                remaining_bytes=65536,
            ),
            bandwidth_bytes_per_second=5e8,
            dirty_bytes_per_second=1e6,
            predicted_stun_ns=5_200_000,
            stun_limit_ns=500_000_000,
            decision=Decision.STUN,
            reason=DecisionReason.SMALL_ENOUGH,
        )
    )
    assert told == (
        "sent round 2: 512 pages (2.0 MiB) in 4.0 ms, by a link of 4.0 Gbit/s; 64.0 KiB"
        " written meanwhile, a stun now would take 5.2 ms. Stun now, because: small enough"
    )


def test_a_round_says_what_it_left_out() -> None:
    event = filled(ev.RoundCompleted)
    assert isinstance(event, ev.RoundCompleted)
    figures = msgspec.structs.replace(
        event.figures,
        hole_bytes=2**30,
        zero_bytes=4096,
        rewritten_bytes=2**20,
        content_bytes=2**21,
        waiting_bytes=2**22,
        compression=Compression.ZSTD,
        compression_bytes=2**23,
    )
    told = sentence(msgspec.structs.replace(event, figures=figures))
    assert (
        ", 1.0 GiB never written and not looked at, 4.0 KiB of zeros only named,"
        " 1.0 MiB left out that held what was sent before,"
        " 2.0 MiB only named that the destination held already, 8.0 MiB saved by zstd,"
        " 4.0 MiB left for the stun;" in told
    )
    assert "left out" not in sentence(event)
    assert "only named" not in sentence(event)
    assert "never written" not in sentence(event)


def test_an_image_that_a_restarted_service_found_whole_has_no_figures_to_tell() -> None:
    found = ev.ImageStaged(
        pages=0, received_bytes=0, received_ns=0, staged_ns=0, verified=ev.Verify.FULL
    )
    assert sentence(found) == (
        "found the whole machine loaded when its service was started again, not running"
    )


def test_a_request_is_told_with_its_limits() -> None:
    told = sentence(
        ev.MigrationRequested(
            machine="searcher", destination="host-2", limits=ev.Limits(), requested_by="op@desk"
        )
    )
    assert told == (
        "op@desk asked to move machine searcher to host-2: stun at most 500ms, all within 10m"
    )


def test_simulated_gpus_are_called_so() -> None:
    gpu = mev.GpuInventory(index=0, model="H100-80GB", memory_bytes=1, simulated=True)
    told = sentence(
        mev.HostAnnounced(hypervisors=(), missing=(), memory_bytes=2**30, kernel="6", gpus=(gpu,))
    )
    assert "H100-80GB (SIMULATED)" in told


def test_an_event_of_a_later_version_is_told_by_its_fields() -> None:
    event = UnknownEvent(fields={"angle": 7, "blob": b"\x01\xff"})
    told = Narrator().tell(recorded(event, type_="machine_rotated"))
    assert told == "machine rotated: angle 7, blob 01ff"


def test_figures_are_told_once_they_are_known_even_after_the_end() -> None:
    narrator = Narrator()
    narrator.tell(recorded(filled(ev.RoundCompleted)))
    narrator.tell(recorded(ev.MachineStunned(stopped_ns=1_000_000, checkpoint_bytes=10)))
    ended = narrator.tell(recorded(ev.MigrationEnded(outcome=ev.Outcome.COMPLETED)))
    assert ended == "the migration ended: completed (1 round, 7 bytes sent)"
    activated = narrator.tell(
        recorded(ev.MachineActivated(register_sequence=1, owned_ns=2, first_step_ns=4_000_000))
    )
    assert activated.endswith(". It stood still for 3.0 ms")
    assert "stood still" not in narrator.tell(recorded(filled(ev.MachineReleased)))


def test_migrations_are_told_apart() -> None:
    narrator = Narrator()
    narrator.tell(recorded(filled(ev.RoundCompleted), migration="one"))
    ended = ev.MigrationEnded(outcome=ev.Outcome.ABORTED, reason=ev.AbortReason.CANCELLED)
    assert narrator.tell(recorded(ended, migration="two")) == (
        "the migration ended: aborted, because: cancelled"
    )
    assert "1 round" in narrator.tell(recorded(ended, migration="one"))
