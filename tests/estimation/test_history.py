"""Histories are bounded, come back from their bytes, and take no curve that is none."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given

from godwit_protocol.errors import CorruptError
from godwit_protocol.estimation import history as hist
from godwit_protocol.estimation.history import DirtyWindow, LinkHistory, MachineHistory
from histories import link, window, windows


@given(windows())
def test_a_window_comes_back_from_its_bytes(given: DirtyWindow) -> None:
    assert hist.decode_window(hist.encode(given)) == given


def test_histories_come_back_from_their_bytes() -> None:
    machine = MachineHistory(machine="m").with_window(window(1, 2))
    assert hist.decode_machine(hist.encode(machine)) == machine
    over = LinkHistory(source="a", destination="b").with_sample(link(1e9))
    assert hist.decode_link(hist.encode(over)) == over


def test_a_history_keeps_the_newest() -> None:
    machine, over = MachineHistory(machine="m"), LinkHistory(source="a", destination="b")
    for number in range(100):
        machine = machine.with_window(window(number))
        over = over.with_sample(link(1e9, switchover_ns=number))
    kept = [given.written_bytes[-1] for given in machine.windows]
    assert kept == list(range(100 - hist.WINDOWS_MAX, 100))
    assert len(over.samples) == hist.LINK_SAMPLES_MAX
    assert over.samples[-1].switchover_ns == 99


def test_a_migration_leaves_one_sample_however_often_it_is_learned_from() -> None:
    over = LinkHistory(source="a", destination="b").with_sample(link(1e9, migration="one"))
    over = over.with_sample(link(1e9, migration="two")).with_sample(link(2e9, migration="one"))
    assert [(each.migration, each.bytes_per_second) for each in over.samples] == [
        ("two", 1e9),
        ("one", 2e9),
    ]


def test_a_new_start_under_the_same_name_is_another_guest() -> None:
    machine = MachineHistory(machine="m")
    for epoch in (1, 2, 2, 5):
        machine = machine.with_window(window(0, epoch=epoch))
    assert [given.epoch for given in machine.since(2).windows] == [2, 2, 5]


@pytest.mark.parametrize(
    "broken",
    [
        {"elapsed_ns": ()},
        {"elapsed_ns": (2, 1)},
        {"elapsed_ns": (0, 1)},
        {"elapsed_ns": (1, 2, 3)},
        {"regions": ()},
        {"regions": (hist.RegionWrites("ram", 1, (2, 1)),)},
        {"regions": (hist.RegionWrites("ram", 1, (-2, 1)),)},
        {"regions": (hist.RegionWrites("ram", -1, (1, 2)),)},
    ],
)
def test_what_is_no_curve_is_refused(broken: dict[str, object]) -> None:
    given = msgspec.structs.replace(window(1, 2, elapsed_ns=(1, 2)), **broken)
    with pytest.raises(CorruptError):
        hist.decode_window(hist.encode(given))
    with pytest.raises(CorruptError):
        hist.decode_machine(hist.encode(MachineHistory(machine="m", windows=(given,))))


def test_a_link_without_a_rate_is_refused() -> None:
    over = LinkHistory(source="a", destination="b").with_sample(link(0.0))
    with pytest.raises(CorruptError):
        hist.decode_link(hist.encode(over))
    with pytest.raises(CorruptError):
        hist.decode_link(b"\x01")
