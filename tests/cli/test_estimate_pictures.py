"""Estimates as people and programs see them."""

from __future__ import annotations

import msgspec

from godwit.pictures.estimates import (
    ComparedMove,
    forecast_json,
    forecast_lines,
    forecast_text,
)
from godwit_protocol.estimation.forecast import Basis, Estimate, Forecast, Lacking, Span
from godwit_protocol.events.estimate import EstimateCompared

MS = 1_000_000
ESTIMATE = Estimate(
    stun_ns=Span(20 * MS, 30 * MS),
    total_ns=Span(1_500 * MS, 2_000 * MS),
    rounds=Span(3, 4),
    sent_bytes=Span(2**20, 2**21),
    converging=1.0,
    bytes_per_second=125e6,
    dirty_bytes_per_second=1e6,
    basis=Basis.OWN_MOVES,
    windows=5,
    moves=7,
)


def test_a_line_says_the_stun_and_its_bound() -> None:
    told = forecast_text(Forecast(estimate=ESTIMATE))
    assert told == (
        "stun 20.0 ms, at most 30.0 ms; 3 rounds, 1.0 MiB in 1.5 s (1.0 Gbit/s; own moves)"
    )
    half = msgspec.structs.replace(ESTIMATE, converging=0.5)
    assert forecast_text(Forecast(estimate=half)).endswith("converges in 50% of the cases")


def test_what_is_not_known_is_said() -> None:
    unknown = Forecast(lacking=Lacking.NO_MOVE)
    assert forecast_text(unknown).startswith("not known: no migration has completed yet; move any")
    young = Forecast(lacking=Lacking.NO_WINDOW)
    assert forecast_text(young).endswith("not been looked at yet; ask again in a minute")
    told = forecast_json("host-2", unknown)
    assert (told["destination"], told["lacking"], told["stun_ms"]) == ("host-2", "no_move", None)


def test_hosts_with_one_estimate_in_common_share_a_line() -> None:
    here, nothing = Forecast(estimate=ESTIMATE), Forecast(lacking=Lacking.NO_MOVE)
    few = forecast_lines({"a": nothing, "b": here, "c": nothing})
    assert few == [("move to a, c", forecast_text(nothing)), ("move to b", forecast_text(here))]
    many = forecast_lines({f"h-{number}": here for number in range(127)})
    assert many == [("move to h-0 and 126 other hosts", forecast_text(here))]


def test_json_has_medians_bounds_and_what_came_of_them() -> None:
    told = forecast_json("host-2", Forecast(estimate=ESTIMATE))
    assert told["stun_ms"] == {"median": 20.0, "bound": 30.0}
    assert (told["basis"], told["windows"], told["moves"]) == ("own_moves", 5, 7)
    compared = EstimateCompared(
        estimate=ESTIMATE,
        stun_ns=25 * MS,
        total_ns=1_400 * MS,
        rounds=2,
        sent_bytes=7,
        within=True,
    )
    move = ComparedMove("id", "m", compared).as_json()
    assert move["stun_ms"] == {"median": 20.0, "bound": 30.0, "actual": 25.0}
    assert (move["id"], move["machine"], move["within"]) == ("id", "m", True)
    assert move["rounds"] == {"median": 3, "bound": 4, "actual": 2}
