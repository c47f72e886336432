"""What any sequence of lines folds to, whoever wrote them: held by nobody who has ended."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from godwit_protocol import ledger
from godwit_protocol.catalogue import GpuMode
from godwit_protocol.events.reservation import Placement
from godwit_protocol.ledger import (
    EntryKind,
    Holding,
    HostPicture,
    LedgerEntry,
    Refusal,
    RefusalCode,
)

WITH_REFUSAL = (EntryKind.REFUSED, EntryKind.EXPIRED)


@st.composite
def lines(draw: st.DrawFn) -> LedgerEntry:
    kind = draw(st.sampled_from(EntryKind))
    start = draw(st.integers(0, 6))
    placement = Placement(
        gpu=0, profile="1g.10gb", framebuffer_bytes=1, mode=GpuMode.MIG, start=start, slots=1
    )
    refusal = Refusal(code=draw(st.sampled_from(RefusalCode)), message="no")
    return LedgerEntry(
        kind=kind,
        reservation=draw(st.sampled_from("abc")),
        machine="m",
        host="host-1",
        placements=(placement,) if kind is EntryKind.HELD else (),
        refusal=refusal if kind in WITH_REFUSAL else None,
        expires_wall_ns=draw(st.integers(0, 3)) if kind is EntryKind.HELD else 0,
    )


def folded(entries: list[LedgerEntry]) -> HostPicture:
    picture = HostPicture(host="host-1")
    for sequence, entry in enumerate(entries, start=1):
        decoded = ledger.decode_entry(ledger.encode_entry(entry))
        picture = ledger.apply(picture, decoded, sequence)
    return picture


def last_life(entries: list[LedgerEntry], reservation: str) -> tuple[bool, bool]:
    """Whether it is held and confirmed, read off its own lines only."""
    held = confirmed = False
    for entry in entries:
        if entry.reservation != reservation:
            continue
        match entry.kind:
            case EntryKind.HELD:
                held, confirmed = True, False
            case EntryKind.CONFIRMED:
                confirmed = held
            case EntryKind.EXPIRED if confirmed:
                pass
            case _:
                held = confirmed = False
    return held, confirmed


@given(st.lists(lines(), max_size=30))
def test_a_reservation_is_held_until_its_own_line_ends_it(entries: list[LedgerEntry]) -> None:
    picture = folded(entries)
    for reservation in "abc":
        held, confirmed = last_life(entries, reservation)
        assert (reservation in picture.holdings) == held
        if held:
            assert picture.holdings[reservation].confirmed == confirmed
    assert picture.sequence == len(entries)


@given(st.lists(lines(), max_size=30), st.lists(lines(), max_size=10))
def test_what_is_confirmed_never_lapses(before: list[LedgerEntry], more: list[LedgerEntry]) -> None:
    picture = folded(before)
    confirmed = {name for name, held in picture.holdings.items() if held.confirmed}
    late = 10**30
    assert not any(picture.holdings[name].has_lapsed(late) for name in confirmed)
    expired = [entry for entry in more if entry.kind is EntryKind.EXPIRED]
    assert confirmed <= set(folded([*before, *expired]).holdings)


@given(st.lists(lines(), max_size=30), st.integers(0, 4))
def test_a_reservation_lapses_only_at_its_deadline(entries: list[LedgerEntry], now: int) -> None:
    for held in folded(entries).holdings.values():
        due = bool(held.expires_wall_ns) and held.expires_wall_ns <= now
        assert held.has_lapsed(now) == (due and not held.confirmed)


@given(st.integers(0, 10**19), st.integers(0, 10**19))
def test_no_start_is_finished_when_its_reservation_may_lapse(expires: int, now: int) -> None:
    """Whoever starts and whoever ends it may differ by a margin about the time."""
    held = Holding(
        reservation="r", machine="m", placements=(), confirmed=False, expires_wall_ns=expires
    )
    if ledger.may_start(expires, now):
        assert not held.has_lapsed(now + ledger.START_MARGIN_NS - 1)
    assert ledger.may_start(0, now)
