"""Moves at a size that nobody here has, on paper."""

from __future__ import annotations

import pytest

from godwit_protocol.convergence import Decision
from godwit_protocol.errors import InvalidInputError
from godwit_protocol.estimation.scenarios import (
    VSPHERE_SHARE,
    Calibration,
    Scenario,
    Workload,
    play_scenario,
    stop_and_copy,
)
from godwit_protocol.events.migration import Limits

GIB = 1024**3
LINE = 100 * 10**9 // 8
LIMITS = Limits(slow_percent_max=80)


def scenario(workload: Workload, gpus: int = 8, line: int = LINE) -> Scenario:
    return Scenario(
        gpus=gpus, gpu_bytes=80 * GIB, link_bytes_per_second=line, workload=workload
    ).checked()


def test_stop_and_copy_takes_what_is_published_of_eight_gpus() -> None:
    idle = scenario(Workload.IDLE)
    assert stop_and_copy(idle, VSPHERE_SHARE).stun_ns == pytest.approx(80e9, rel=0.01)
    assert stop_and_copy(idle, 1.0).stun_ns == pytest.approx(55e9, rel=0.01)


@pytest.mark.parametrize("workload", [Workload.IDLE, Workload.INFERENCE, Workload.KV_CACHE])
@pytest.mark.parametrize("gpus", [1, 8])
def test_what_writes_less_than_the_link_carries_is_stunned_within_the_limit(
    workload: Workload, gpus: int
) -> None:
    played = play_scenario(scenario(workload, gpus), LIMITS)
    assert played.decision is Decision.STUN
    assert played.stun_ns <= LIMITS.stun_limit_ns
    assert played.sent_bytes >= gpus * 80 * GIB
    assert played.total_ns > played.sent_bytes / LINE * 1e9


def test_training_rewrites_all_in_each_round_and_is_given_up() -> None:
    played = play_scenario(scenario(Workload.TRAINING), LIMITS)
    assert played.decision is Decision.GIVE_UP
    assert {done.remaining_bytes for done in played.rounds} == {8 * 80 * GIB}


def test_a_slower_link_and_a_smaller_share_of_it_take_longer() -> None:
    inference = scenario(Workload.INFERENCE)
    usual = play_scenario(inference, LIMITS)
    slower = play_scenario(scenario(Workload.INFERENCE, line=LINE // 2), LIMITS)
    less = play_scenario(inference, LIMITS, Calibration(link_share=VSPHERE_SHARE))
    assert usual.total_ns < less.total_ns < slower.total_ns


def test_gpu_memory_is_looked_through_in_the_stun() -> None:
    """80 GiB at 3.35 TB/s are 25.6 ms: more than all the rest of an idle machine's stun."""
    at_once = Calibration(digest_bytes_per_second=1e18)
    idle = scenario(Workload.IDLE)
    saved_ns = play_scenario(idle, LIMITS).stun_ns - play_scenario(idle, LIMITS, at_once).stun_ns
    assert saved_ns == pytest.approx(25.6e6, rel=0.01)


@pytest.mark.parametrize(
    ("gpus", "line", "told"), [(0, LINE, "GPUs"), (65, LINE, "65"), (1, 0, "link")]
)
def test_what_cannot_be_is_refused(gpus: int, line: int, told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        scenario(Workload.IDLE, gpus, line)
