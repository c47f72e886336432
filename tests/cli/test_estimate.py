"""``godwit estimate``: needs no cluster, and says that it is on paper."""

from __future__ import annotations

import json

from conftest import Here

from godwit_protocol.errors import InvalidInputError

OVER = ("--link", "100Gbit", "--workload")


def test_eight_gpus_over_a_link(here: Here) -> None:
    told = here("estimate", "--model", "h100x8", *OVER, "inference")
    assert told.status == 0
    assert "SIMULATED" in told.out
    assert "8 x 80.0 GiB" in told.out
    assert "1.3 min" in told.out  # 640 GiB at 69 Gbit/s


def test_the_same_as_data(here: Here) -> None:
    found = json.loads(here("estimate", "--model", "H100-80GB", *OVER, "idle", "--json").out)
    assert (found["simulated"], found["gpus"], found["outcome"]) == (True, 1, "stun")
    assert found["stun_ms"] < found["total_ms"]
    assert [each["link_share"] for each in found["stop_and_copy"]] == [0.69, 1.0]


def test_the_first_word_of_a_model_is_that_with_the_least_memory(here: Here) -> None:
    found = json.loads(here("estimate", "--model", "a100", *OVER, "idle", "--json").out)
    assert found["gpu_bytes"] == 40 * 2**30


def test_what_is_given_up_says_why(here: Here) -> None:
    told = here("estimate", "--model", "h100", *OVER, "training")
    assert "stalled above limit" in told.out


def test_an_unknown_model_is_refused_with_those_there_are(here: Here) -> None:
    told = here("estimate", "--model", "b9000x8", *OVER, "idle")
    assert told.status == InvalidInputError.exit_code
    assert "H100-80GB" in told.err
