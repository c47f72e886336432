"""A bandwidth asked for before a migration starts goes with the start; later, by order."""

from __future__ import annotations

from parts import SOURCE
from scenarios import bandwidth_changed

from godwit_protocol.events import bandwidth as bev
from godwit_protocol.events import migration as ev
from godwit_protocol.projections import MigrationSummary, fold
from godwit_protocol.roles.coordinator_facts import BANDWIDTH_REQUESTS_MAX, Facts
from godwit_protocol.roles.effects import SetBandwidth


def test_the_start_has_what_was_asked_for_before_it_and_orders_tell_the_rest() -> None:
    world = bandwidth_changed()
    events = [recorded.event for recorded in world.log.recorded]
    (started,) = [event for event in events if isinstance(event, ev.MigrationStarted)]
    assert started.limits.bandwidth_bytes_per_second == 125_000
    ordered = [event for event in events if isinstance(event, bev.BandwidthOrdered)]
    told = [(event.change, event.order, event.bandwidth_bytes_per_second) for event in ordered]
    assert told == [(1, "request 2", 250_000), (2, "request 3", 0)]
    done = [effect for role, effect in world.effects if role is SOURCE]
    rates = [each.bytes_per_second for each in done if isinstance(each, SetBandwidth)]
    assert rates == [250_000, 0]


def test_a_summary_tells_the_last_bandwidth_and_who_asked_for_it() -> None:
    summary, seen = MigrationSummary(id="m"), []
    for recorded in bandwidth_changed().log.recorded:
        summary = fold(summary, recorded)
        seen.append((summary.limits.bandwidth_bytes_per_second, summary.bandwidth_changed_by))
    assert list(dict.fromkeys(seen)) == [
        (0, ""),
        (125_000, ""),
        (250_000, "an operator"),
        (0, "an operator"),
    ]


def test_a_coordinator_hears_each_request_of_a_bandwidth_but_not_without_end() -> None:
    facts = Facts()
    asked = bev.BandwidthRequested(order="1", bandwidth_bytes_per_second=125_000)
    heard = [facts.is_new(asked) for _ in range(BANDWIDTH_REQUESTS_MAX + 2)]
    assert heard == [True] * BANDWIDTH_REQUESTS_MAX + [False] * 2
    assert facts.is_new(ev.CancelRequested())
    assert not facts.is_new(ev.CancelRequested())
