"""A signed migration: nothing in it can be changed by whoever owns the log but has no key."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from godwit.runtime.clock import SystemClock
from godwit.runtime.lane import LaneWriter, Scope, position_after
from godwit.runtime.log_file import LogFile
from godwit.runtime.signing import Signer, is_signed, load_signer, make_key, open_signer
from godwit_protocol import codec
from godwit_protocol.errors import InvalidInputError
from godwit_protocol.events import CHAIN_START, Lane, stored_hash
from godwit_protocol.events import migration as ev
from godwit_protocol.events.signed import LaneSigned
from godwit_protocol.replay.chains import note
from godwit_protocol.replay.findings import UNCLOSED
from godwit_protocol.replay.signatures import UNTRUSTED, Trust, parse_trusted
from godwit_protocol.replay.verification import UNENDED, UNHELD, verify
from godwit_protocol.stored import Stored
from signers import SIGNERS, TRUST, signer

LOGS = Path(__file__).parents[1] / "golden" / "logs"
STRANGER = signer(9)


def lanes_of(messages: Iterable[Stored]) -> dict[tuple[Lane, str], list[int]]:
    found: dict[tuple[Lane, str], list[int]] = {}
    for place, message in enumerate(messages):
        envelope = codec.decode(message.data).envelope
        found.setdefault((envelope.lane, envelope.host), []).append(place)
    return found


def with_signature_of(
    messages: list[Stored], migration: str, lane: Lane, writer: str, signer: Signer
) -> list[Stored]:
    position = position_after(lane, writer, [each.data for each in messages])
    scope = Scope.of_migration(migration, "m")
    seen = note(messages) if lane is Lane.COORDINATOR else None
    sealed = LaneWriter(SystemClock(), lane, writer, scope, position).sign(signer, seen)
    stored = Stored(
        subject=sealed.subject,
        sequence=messages[-1].sequence + 1,
        time_ns=messages[-1].time_ns,
        data=sealed.data,
    )
    return [*messages, stored]


@cache
def signed(name: str = "v1-completed") -> tuple[str, tuple[Stored, ...]]:
    file = LogFile(LOGS / f"{name}.ndjson")
    migration, messages = file.head().of, list(file.messages())
    lanes = lanes_of(messages)
    for writer, key in SIGNERS.items():  # the coordinator comes last
        for lane, name_ in [each for each in lanes if each[1] == writer]:
            messages = with_signature_of(messages, migration, lane, name_, key)
    return migration, tuple(messages)


@pytest.mark.parametrize("name", ["v1-completed", "v1-aborted", "v1-rolled-back"])
def test_all_of_a_signed_migration_is_proven(name: str) -> None:
    migration, messages = signed(name)
    found = verify(migration, messages, trust=TRUST)
    assert found.is_whole, (found.faults, found.unproven)
    by = [text for text in found.proven if "trusted key" in text]
    assert len(by) == len({key for key in lanes_of(messages) if key[0] is not Lane.OPERATOR})


def test_without_known_keys_it_is_not_proven_whose_hand_it_is() -> None:
    migration, messages = signed()
    found = verify(migration, messages, trust=Trust(is_signed=is_signed))
    assert found.unproven == (UNTRUSTED, UNCLOSED)
    assert verify(migration, messages).unproven == (UNHELD,), "nobody has looked"


def test_one_that_nobody_signed_is_wrong_only_for_whoever_wants_signatures() -> None:
    migration, messages = signed()
    bare = [each for each in messages if not each.subject.endswith(LaneSigned.TYPE)]
    assert verify(migration, bare, trust=Trust(is_signed=is_signed)).unproven == (UNHELD,)
    told = "\n".join(map(str, verify(migration, bare, trust=TRUST).faults))
    for name in ("source/host-1", "destination/host-2", "coordinator/coordinator-1"):
        assert f"{name}: not signed" in told
    assert "no coordinator has signed the end" in told


def test_what_came_after_the_last_signature_is_named_until_it_is_signed_too() -> None:
    migration, whole = signed()
    tracker = Lane.TRACKER, "tracker-1"
    late = with_signature_of([*whole], migration, *tracker, SIGNERS["tracker-1"])
    assert not (found := verify(migration, late, trust=TRUST)).faults
    assert found.unproven == (
        UNCLOSED,
        f"in which order these came, after the {len(whole) - 1} that are signed:"
        " coordinator/coordinator-1 lane_signed; tracker/tracker-1 lane_signed",
    )
    coordinator = Lane.COORDINATOR, "coordinator-1"
    again = with_signature_of(late, migration, *coordinator, SIGNERS["coordinator-1"])
    assert verify(migration, again, trust=TRUST).is_whole


def test_that_nothing_came_after_the_last_signature_is_never_said_to_be_proven() -> None:
    """What came late is signed again, and a log that is cut back to before it verifies."""
    migration, whole = signed()
    tracker = Lane.TRACKER, "tracker-1"
    late = with_signature_of([*whole], migration, *tracker, SIGNERS["tracker-1"])
    coordinator = Lane.COORDINATOR, "coordinator-1"
    again = with_signature_of(late, migration, *coordinator, SIGNERS["coordinator-1"])
    for left in (again, whole):
        found = verify(migration, left, trust=TRUST)
        assert found.is_whole
        assert UNCLOSED in found.unproven
    writer = LaneWriter(SystemClock(), Lane.OPERATOR, "cli-x", Scope.of_migration(migration, "m"))
    sealed = writer.seal(ev.CancelRequested())
    put_in = Stored(sealed.subject, again[-1].sequence + 1, 0, sealed.data, {})
    found = verify(migration, [*again, put_in], trust=TRUST)
    assert not found.is_whole
    assert any("operator/cli-x: not signed after its event 0" in text for text in found.unproven)
    bare = [each for each in whole if not each.subject.endswith(LaneSigned.TYPE)]
    assert UNCLOSED not in verify(migration, bare, trust=Trust(is_signed=is_signed)).unproven


def test_what_was_not_signed_yet_is_told() -> None:
    migration, messages = signed()
    for place, message in enumerate(messages):
        if message.subject.endswith(LaneSigned.TYPE):
            left = [*messages[:place], *messages[place + 1 :]]
            found = verify(migration, left, trust=Trust(is_signed=is_signed))
            assert any("not signed" in text for text in found.unproven) or found.faults


@settings(max_examples=40)
@given(st.data())
def test_any_single_event_that_is_changed_is_found(data: st.DataObject) -> None:
    migration, whole = signed()
    index = data.draw(st.integers(0, len(whole) - 1))
    message, changed = whole[index], list(whole)
    match data.draw(st.sampled_from(("altered", "dropped", "doubled", "swapped", "put in"))):
        case "altered":
            raw = bytearray(message.data)
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
            changed[index] = msgspec.structs.replace(message, data=bytes(raw))
        case "dropped":
            del changed[index]
        case "doubled":
            changed.append(msgspec.structs.replace(message, sequence=whole[-1].sequence + 1))
        case "swapped":
            other = data.draw(st.integers(0, len(whole) - 1).filter(lambda at: at != index))
            sequence, later = message.sequence, whole[other].sequence
            changed[index] = msgspec.structs.replace(whole[other], sequence=sequence)
            changed[other] = msgspec.structs.replace(message, sequence=later)
        case _:
            envelope = codec.decode(message.data).envelope
            added = msgspec.structs.replace(envelope, id=SystemClock().new_id())
            stored = msgspec.structs.replace(
                message, data=codec.encode(added), sequence=whole[-1].sequence + 1, headers={}
            )
            changed.append(stored)
    assert verify(migration, changed, trust=TRUST).faults


@settings(max_examples=25)
@given(st.data())
def test_no_end_of_a_lane_can_be_cut_off(data: st.DataObject) -> None:
    migration, whole = signed()
    places = data.draw(st.sampled_from(list(lanes_of(whole).values())))
    left = data.draw(st.integers(0, len(places) - 1))
    gone = set(places[left:])
    changed = [each for place, each in enumerate(whole) if place not in gone]
    found = verify(migration, changed, trust=TRUST)
    assert found.faults or UNENDED in found.unproven, "its end may be yet to come"


@settings(max_examples=25)
@given(st.data())
def test_no_lane_can_be_written_anew_without_its_key(data: st.DataObject) -> None:
    """Every hash fits again, and the last event is signed anew: with another key."""
    migration, whole = signed()
    (lane, writer), places = data.draw(st.sampled_from(list(lanes_of(whole).items())))
    signs = lane is not Lane.OPERATOR
    changed, last = list(whole), CHAIN_START
    for place in places[:-1] if signs else places:
        envelope = codec.decode(whole[place].data).envelope
        other = msgspec.structs.replace(envelope, prev_hash=last, wall_ns=envelope.wall_ns + 1)
        changed[place] = msgspec.structs.replace(whole[place], data=codec.encode(other))
        last = stored_hash(changed[place].data)
    if signs:
        del changed[places[-1]]
        changed = with_signature_of(changed, migration, lane, writer, STRANGER)
    assert verify(migration, changed, trust=TRUST).faults


def test_a_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "host" / "signing.key"
    signer = open_signer(path)
    assert signer is not None
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path], "nothing is left of the making"
    make_key(path)
    assert load_signer(path).public_key == signer.public_key, "a key is never overwritten"
    assert is_signed(signer.public_key, signer.sign(b"x"), b"x")
    assert not is_signed(signer.public_key, signer.sign(b"x"), b"y")
    assert not is_signed(b"", b"", b"")
    assert open_signer(None) is None
    path.chmod(0o644)
    with pytest.raises(InvalidInputError, match="others may read"):
        load_signer(path)
    path.write_text("nonsense")
    path.chmod(0o600)
    with pytest.raises(InvalidInputError, match="no signing key"):
        load_signer(path)


def test_trusted_keys_are_lines_of_names_and_keys() -> None:
    one, two = bytes(range(32)), bytes(32)
    text = f"# ours\nhost-1 {one.hex()}\n\nhost-1 {two.hex()} # after the disk was changed\n"
    assert parse_trusted(text) == {"host-1": frozenset({one, two})}
    for wrong in ("host-1", "host-1 00", f"host-1 {one.hex()} x", f"host-1 {one.hex()}0"):
        with pytest.raises(InvalidInputError, match="line 1 is no trusted key"):
            parse_trusted(wrong)
