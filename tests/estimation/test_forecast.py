"""Estimates: a median, a bound that is never below it, and the history they are made from."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit_protocol.estimation.admission import Admission, AdmissionPolicy, admit
from godwit_protocol.estimation.forecast import (
    WINDOWS_PLAYED_MAX,
    Basis,
    Estimate,
    Forecast,
    Lacking,
    forecast,
    forecasts,
)
from godwit_protocol.estimation.history import DirtyWindow, LinkSample
from godwit_protocol.events.migration import Limits
from histories import MIB, MS, link, links, steady, window, windows


def estimate(
    windows: list[DirtyWindow],
    samples: list[LinkSample],
    stun_limit_ns: int = 500 * MS,
    destination: str = "host-2",
) -> Estimate:
    made = forecast(
        windows,
        samples,
        Limits(stun_limit_ns=stun_limit_ns),
        machine="m",
        source="host-1",
        destination=destination,
    )
    assert made.estimate is not None
    return made.estimate


@pytest.mark.parametrize(
    ("windows", "samples", "lacking"),
    [([], [link(1e9)], Lacking.NO_WINDOW), ([window(0)], [], Lacking.NO_MOVE)],
)
def test_what_is_not_known_is_not_estimated(
    windows: list[DirtyWindow], samples: list[LinkSample], lacking: Lacking
) -> None:
    made = forecast(windows, samples, Limits(), machine="m", source="a", destination="b")
    assert made == Forecast(lacking=lacking)
    verdict = admit(made, 1, AdmissionPolicy.REFUSE)
    assert verdict.admission is Admission.NOT_ESTIMATED
    assert verdict.message.startswith("no estimate: ")


@given(
    st.lists(windows(), min_size=1, max_size=4),
    st.lists(links, min_size=1, max_size=4),
    st.integers(1, 10_000 * MS),
)
def test_no_bound_is_below_its_median(
    windows: list[DirtyWindow], samples: list[LinkSample], stun_limit_ns: int
) -> None:
    made = estimate(windows, samples, stun_limit_ns)
    for span in (made.stun_ns, made.total_ns, made.rounds, made.sent_bytes):
        assert 0 <= span.median <= span.bound
    assert 0.0 <= made.converging <= 1.0
    assert (made.windows, made.moves) == (len(windows), len(samples))


@given(st.lists(st.integers(10 * MS, 100 * MS), min_size=1, max_size=16))
def test_an_idle_machine_s_stun_is_what_switchovers_took(switchovers_ns: list[int]) -> None:
    samples = [link(1e9, switchover_ns=taken_ns) for taken_ns in switchovers_ns]
    made = estimate([window(0, 0)], samples)
    assert made.stun_ns.median == sorted(switchovers_ns)[(len(samples) - 1) // 2]
    assert made.stun_ns.bound >= max(switchovers_ns)


@given(st.floats(1.5, 50), st.integers(1, 300))
def test_a_slower_link_takes_longer_in_all(times: float, megabytes_per_second: int) -> None:
    busy = [steady(megabytes_per_second * 10**6)]
    fast, slow = estimate(busy, [link(4e9)]), estimate(busy, [link(4e9 / times)])
    assert fast.total_ns.median <= slow.total_ns.median
    assert fast.sent_bytes.bound <= slow.sent_bytes.bound


def test_its_own_moves_tell_most_and_other_links_least() -> None:
    others = [link(1e9, machine="x", switchover_ns=30 * MS) for _ in range(20)]
    own = [link(1e9, switchover_ns=20 * MS) for _ in range(3)]
    far = [link(1e6, source="host-8", destination="host-9")]
    near = [link(1e8, destination="host-3", switchover_ns=40 * MS)]
    for samples, basis, stun_ns in (
        (others + own, Basis.OWN_MOVES, 20 * MS),
        (others + own[:2], Basis.SAME_LINK, 30 * MS),
        (far + near, Basis.OTHER_LINKS, 40 * MS),
        (far, Basis.OTHER_LINKS, 10 * MS),
    ):
        made = estimate([window(0)], samples)
        assert (made.basis, made.stun_ns.median) == (basis, stun_ns)


def test_another_machine_s_last_copy_says_nothing_of_this_one_s() -> None:
    written = [window(0, 0, 0, 0, 64 * MIB, resident_bytes=64 * MIB)]
    others = [link(1e9, machine="x", final_bytes=64 * MIB)] * 5
    own = [link(1e9, final_bytes=64 * MIB)] * 5
    assert estimate(written, others).stun_ns.median < estimate(written, own).stun_ns.median


def test_destinations_that_the_same_moves_speak_for_are_played_once() -> None:
    def all_of(*destinations: str) -> dict[str, Forecast]:
        samples = [link(1e9, destination="host-2"), link(2e9, source="host-9", destination="x")]
        return forecasts(
            [steady(10**6)],
            samples,
            Limits(),
            machine="m",
            source="host-1",
            destinations=destinations,
        )

    found = all_of("host-2", "host-3", "host-4")
    assert found["host-3"] is found["host-4"]
    assert found["host-2"] != found["host-3"]
    assert all(found[host] == all_of(host)[host] for host in found)


def test_only_the_newest_windows_are_played() -> None:
    old, new = [steady(300 * 10**6)] * 100, [window(0)] * WINDOWS_PLAYED_MAX
    made = estimate(old + new, [link(1e9)])
    assert (made.stun_ns.median, made.windows) == (10 * MS, WINDOWS_PLAYED_MAX)


def test_the_same_move_is_refused_over_the_slower_link() -> None:
    """The stun limit is held against each destination's own link."""
    hot = [window(*[60 * MIB] * 5)]
    samples = [link(2e9) for _ in range(10)]
    samples += [link(5e7, destination="host-3", machine="x") for _ in range(10)]
    limit_ns = 500 * MS
    fast, slow = (
        Forecast(estimate=estimate(hot, samples, limit_ns, to)) for to in ("host-2", "host-3")
    )
    assert admit(fast, limit_ns, AdmissionPolicy.REFUSE).admission is Admission.ADMITTED
    refused = admit(slow, limit_ns, AdmissionPolicy.REFUSE)
    assert refused.admission is Admission.REFUSED
    assert "the limit is 500ms" in refused.message
    assert admit(slow, limit_ns, AdmissionPolicy.WARN).admission is Admission.WARNED


@given(st.integers(1, 2000 * MS), st.sampled_from(AdmissionPolicy))
def test_a_bound_at_the_limit_is_admitted_and_one_over_it_is_not(
    stun_limit_ns: int, policy: AdmissionPolicy
) -> None:
    made = estimate([window(0)], [link(1e9, switchover_ns=stun_limit_ns // 2)])
    exact = Forecast(estimate=made)
    assert admit(exact, made.stun_ns.bound, policy).admission is Admission.ADMITTED
    over = admit(exact, made.stun_ns.bound - 1, policy).admission
    assert over is {"refuse": Admission.REFUSED, "warn": Admission.WARNED}[policy.value]


def test_an_estimate_is_plain_data() -> None:
    made = estimate([window(1, 2)], [link(1e9)])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=Estimate) == made


def test_a_small_move_does_not_say_how_slow_the_link_is() -> None:
    """A machine of a few pages moves at a megabit a second over any link."""
    small = link(2e5, largest_bytes=2 * MIB)
    large = link(1e9, source="c", destination="d")
    alone = estimate([steady(10 * 10**6)], [small])
    beside = estimate([steady(10 * 10**6)], [small, large])
    faster = estimate([steady(10 * 10**6)], [small, link(3e5, largest_bytes=3 * MIB)])
    assert (alone.bytes_per_second, beside.bytes_per_second) == (2e5, 1e9)
    assert faster.bytes_per_second == 3e5
