from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process_machine import InProcessMachine, ask, moved

from godwit.guests.memhog import Memhog, Pattern
from godwit.guests.stamped_pages import Damage, StampedPages, pages_that_fit
from godwit_protocol.errors import CorruptError, GuestError, InvalidInputError
from godwit_protocol.machine import PAGE_BYTES

RAM_BYTES = 1 << 20
RATE = 40_960_000
"""Ten pages a millisecond."""


class Clock:
    """Time that goes on when told to, or when the guest naps."""

    def __init__(self) -> None:
        self.now_ns = 10**9
        self.naps: list[float] = []

    def __call__(self) -> int:
        return self.now_ns

    def nap(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now_ns += round(seconds * 1e9)


class Rig:
    """A memhog in a machine, with a clock of its own."""

    def __init__(self, rate: int = RATE, pattern: Pattern = Pattern.UNIFORM) -> None:
        self.clock = Clock()
        self.machine = InProcessMachine.of(RAM_BYTES)
        self.spare = self.machine.like()
        self.guest = self.construct()
        self.guest.boot(self.machine)
        self.ask("set", rate=rate, pattern=pattern)

    def construct(self) -> Memhog:
        return Memhog(self.clock, self.clock.nap)

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        return ask(self.guest, op, **fields)

    def run(self, milliseconds: int) -> None:
        for _ in range(milliseconds):
            self.clock.now_ns += 10**6
            self.guest.step([])

    def move(self) -> None:
        self.guest = moved(self.guest, self.machine, self.spare, self.construct)
        self.machine, self.spare = self.spare, self.machine

    @property
    def pages(self) -> StampedPages:
        return StampedPages(self.machine.ram, PAGE_BYTES, self.ask("status")["pages"])

    def page(self, number: int) -> memoryview:
        begin = self.pages.offset_of(number)
        return self.machine.ram[begin : begin + PAGE_BYTES]

    def damage(self) -> list[tuple[int, str]]:
        return [(bad["page"], bad["damage"]) for bad in self.ask("check")["bad_pages"]]

    def stamp_all(self) -> None:
        self.ask("set", pattern=Pattern.SEQUENTIAL)
        self.run(60)
        self.ask("set", rate=0)


actions = st.one_of(
    st.tuples(st.just("pattern"), st.sampled_from(Pattern)),
    st.tuples(st.just("hot"), st.integers(1, 2 * RAM_BYTES)),
    st.tuples(st.just("rate"), st.integers(0, 10**10)),
    st.tuples(st.just("run"), st.integers(1, 20)),
    st.tuples(st.just("move"), st.just(0)),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(actions, max_size=20))
def test_whatever_it_does_and_however_it_is_moved_its_pages_are_whole(
    todo: list[tuple[str, Any]],
) -> None:
    rig = Rig()
    does: dict[str, Callable[[Any], object]] = {
        "pattern": lambda pattern: rig.ask("set", pattern=pattern),
        "hot": lambda size: rig.ask("set", hot_bytes=size),
        "rate": lambda rate: rig.ask("set", rate=rate),
        "run": rig.run,
        "move": lambda _: rig.move(),
    }
    for action, argument in todo:
        assert "error" not in (does[action](argument) or {})
    check = rig.ask("check")
    assert check["bad"] == 0
    assert check["table_whole"]
    assert check["checked"] == rig.ask("status")["pages"]


def test_ten_moves_leave_it_where_an_undisturbed_twin_is() -> None:
    rig, twin = Rig(), Rig()
    for _ in range(10):
        rig.run(5)
        twin.run(5)
        rig.move()
    assert rig.ask("status")["pages_written"] == 500
    assert rig.machine.image() == twin.machine.image()
    assert rig.damage() == []


def test_a_stale_page_is_found() -> None:
    rig = Rig(pattern=Pattern.SEQUENTIAL)
    rig.stamp_all()
    old = bytes(rig.page(7))
    rig.pages.stamp(np.array([7]))
    rig.page(7)[:] = old
    assert rig.damage() == [(7, Damage.STALE)]


@pytest.mark.parametrize(
    ("spoil", "damage"),
    [
        (lambda rig: rig.page(3).__setitem__(slice(None), bytes(PAGE_BYTES)), Damage.LOST),
        (lambda rig: rig.page(3).__setitem__(slice(None), rig.page(4)), Damage.MISPLACED),
        (lambda rig: rig.page(3).__setitem__(4095, rig.page(3)[4095] ^ 1), Damage.CORRUPT),
        (lambda rig: rig.page(3).__setitem__(0, 9), Damage.CORRUPT),
    ],
)
def test_damage_is_found_and_named(spoil: Callable[[Rig], None], damage: Damage) -> None:
    rig = Rig()
    rig.stamp_all()
    assert rig.damage() == []
    spoil(rig)
    assert rig.damage() == [(3, damage)]


def test_bytes_in_a_page_that_was_never_written_are_found() -> None:
    rig = Rig(rate=0)
    rig.page(5)[100] = 1
    assert rig.damage() == [(5, Damage.CORRUPT)]


def test_a_page_and_its_table_entry_that_are_stale_together_are_found() -> None:
    rig = Rig()
    rig.stamp_all()
    pages, table = bytes(rig.page(7)), bytes(rig.machine.ram[PAGE_BYTES : 2 * PAGE_BYTES])
    rig.ask("set", rate=RATE)
    rig.run(30)
    rig.ask("set", rate=0)
    rig.page(7)[:] = pages
    rig.machine.ram[PAGE_BYTES : 2 * PAGE_BYTES] = table
    assert not rig.ask("check")["table_whole"]


def test_a_lost_first_page_is_found_at_load() -> None:
    rig = Rig()
    rig.run(3)
    checkpoint = rig.guest.save()
    rig.machine.ram[:PAGE_BYTES] = bytes(PAGE_BYTES)
    with pytest.raises(CorruptError, match="lost"):
        rig.construct().load(rig.machine, checkpoint)


def test_a_check_goes_on_where_it_ended() -> None:
    rig = Rig()
    rig.stamp_all()
    rig.page(200)[:] = bytes(PAGE_BYTES)
    count, first, checked, bad = rig.ask("status")["pages"], 0, 0, []
    while first is not None:
        check = rig.ask("check", first=first, pages=100)
        first, checked, bad = check["next"], checked + check["checked"], bad + check["bad_pages"]
    assert checked == count
    assert [page["page"] for page in bad] == [200]
    assert rig.ask("check", first=10 * count)["checked"] == 0


def test_the_rate_is_kept() -> None:
    rig = Rig()
    rig.run(250)
    assert rig.ask("status")["pages_written"] == 2500


def test_a_pause_is_not_made_up_for() -> None:
    rig = Rig()
    rig.clock.now_ns += 60 * 10**9
    rig.guest.step([])
    rig.guest.step([])
    assert rig.ask("status")["pages_written"] == 500


def test_it_waits_at_most_a_millisecond_when_nothing_is_due() -> None:
    rig = Rig(rate=PAGE_BYTES)
    for _ in range(5):
        rig.guest.step([])
    assert rig.clock.naps == [0.001] * 5


def test_at_rate_zero_it_is_idle_and_writes_nothing() -> None:
    rig = Rig()
    assert not rig.guest.idle
    rig.ask("set", rate=0)
    assert rig.guest.idle
    before = rig.machine.image()
    rig.run(20)
    assert rig.machine.image() == before
    assert rig.clock.naps == []


def written_pages(rig: Rig) -> set[int]:
    before = rig.machine.ram.tobytes()
    rig.run(60)
    after = np.frombuffer(rig.machine.ram, np.uint8).reshape(-1, PAGE_BYTES)
    changed = (after != np.frombuffer(before, np.uint8).reshape(-1, PAGE_BYTES)).any(axis=1)
    first = rig.pages.offset_of(0) // PAGE_BYTES
    return {int(page) - first for page in np.flatnonzero(changed)} - set(range(-first, 0))


def test_each_pattern_writes_its_pages() -> None:
    rig = Rig(rate=0)
    count = rig.ask("status")["pages"]
    rig.ask("set", rate=RATE, pattern=Pattern.SEQUENTIAL)
    assert written_pages(rig) == set(range(count))
    rig.ask("set", pattern=Pattern.HOT, hot_bytes=10 * PAGE_BYTES)
    assert written_pages(rig) == set(range(10))
    rig.ask("set", pattern=Pattern.SILENT)
    assert written_pages(rig) == set()
    rig.ask("set", pattern=Pattern.ZERO)
    zeroed = written_pages(rig)
    assert len(zeroed) > count / 2
    assert not any(any(rig.page(page)) for page in zeroed)
    rig.ask("set", pattern=Pattern.UNIFORM)
    assert len(written_pages(rig)) > count / 2
    assert rig.damage() == []


def test_it_can_be_filled_at_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GODWIT_MEMHOG_FILL", "1")
    rig = Rig(rate=0)
    count = rig.ask("status")["pages"]
    assert all(any(rig.page(page)) for page in range(count))
    assert rig.ask("check")["table_whole"]
    assert rig.damage() == []


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GODWIT_MEMHOG_REGION", "framebuffer")
    monkeypatch.setenv("GODWIT_MEMHOG_RATE", "1MiB")
    monkeypatch.setenv("GODWIT_MEMHOG_PATTERN", "hot")
    monkeypatch.setenv("GODWIT_MEMHOG_HOT", "64KiB")
    machine = InProcessMachine.of(PAGE_BYTES, RAM_BYTES)
    guest = Memhog()
    guest.boot(machine)
    status = ask(guest, "status")
    assert (status["rate"], status["pattern"], status["hot_bytes"]) == (1 << 20, "hot", 65536)
    assert not any(machine.ram)
    with pytest.raises(GuestError, match="no vGPU"):
        Memhog().boot(InProcessMachine.of(RAM_BYTES))


@pytest.mark.parametrize(
    ("name", "value"),
    [("RATE", "fast"), ("PATTERN", "wild"), ("REGION", "disk"), ("FILL", "2"), ("HOT", "0")],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"GODWIT_MEMHOG_{name}", value)
    with pytest.raises(InvalidInputError, match=f"GODWIT_MEMHOG_{name}"):
        Memhog()


def test_memory_without_room_for_a_page_is_refused() -> None:
    with pytest.raises(GuestError, match="no room"):
        Memhog().boot(InProcessMachine.of(2 * PAGE_BYTES))


@given(st.integers(0, 10**8))
def test_table_and_pages_fit_and_one_more_page_would_not(size_bytes: int) -> None:
    def needed(pages: int) -> int:
        return -(-8 * pages // PAGE_BYTES) * PAGE_BYTES + pages * PAGE_BYTES

    count = pages_that_fit(size_bytes)
    assert count == 0 or needed(count) <= size_bytes
    assert needed(count + 2) > size_bytes


requests = st.one_of(
    st.binary(max_size=60),
    st.fixed_dictionaries(
        {"op": st.sampled_from(["set", "check", "status", "quit"])},
        optional={
            "rate": st.integers() | st.text(max_size=3),
            "pattern": st.text(max_size=8) | st.sampled_from(Pattern),
            "hot_bytes": st.integers(),
            "first": st.integers(),
            "pages": st.integers() | st.none(),
        },
    ).map(lambda fields: json.dumps(fields).encode()),
)


@settings(deadline=None)
@given(st.lists(requests, max_size=5))
def test_no_request_makes_it_raise(payloads: list[bytes]) -> None:
    rig = Rig()
    replies = rig.guest.step(payloads)
    assert len(replies) == len(payloads)
    assert all(json.loads(reply) for reply in replies)
    rig.run(2)
    assert rig.damage() == []
