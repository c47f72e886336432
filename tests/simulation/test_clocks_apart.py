"""Hosts whose clocks have nothing in common know how far these are apart, before the stun."""

from __future__ import annotations

import pytest
from calm_cluster import CalmCluster

from godwit.transfer.control import ControlLink
from godwit_protocol import link
from godwit_protocol.events import migration as ev


def moved(calm: CalmCluster) -> ev.FinalCopySent:
    calm.migrate()
    calm.until(calm.has_told(ev.MigrationEnded))
    (sent,) = calm.told(ev.FinalCopySent)
    assert isinstance(sent, ev.FinalCopySent)
    return sent


def ahead_ns(calm: CalmCluster) -> int:
    there, here = (calm.place(host).clock.monotonic_ns() for host in ("host-2", "host-1"))
    return there - here


def test_the_recorded_offset_is_within_its_error(calm: CalmCluster) -> None:
    sent = moved(calm)
    assert sent.clock_offset_ns is not None
    assert abs(sent.clock_offset_ns - ahead_ns(calm)) <= sent.clock_error_ns < 1_000_000


def test_nothing_of_it_is_said_in_the_stun_though_a_round_is_applied_in_it(
    calm: CalmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[int, type[link.LinkMessage]]] = []
    say, clock = ControlLink.say, calm.place("host-1").clock

    def noted(self: ControlLink, message: link.LinkMessage) -> None:
        if isinstance(message, link.Staged):
            say(self, link.RoundApplied(round=9, pages=0, applied_bytes=0))
        said.append((clock.monotonic_ns(), type(message)))
        say(self, message)

    monkeypatch.setattr(ControlLink, "say", noted)
    moved(calm)
    (stunned,) = calm.told(ev.MachineStunned)
    assert isinstance(stunned, ev.MachineStunned)
    kinds = [kind for _, kind in said]
    in_stun = {
        kind for at_ns, kind in said[: kinds.index(link.Active)] if at_ns >= stunned.stopped_ns
    }
    assert kinds.count(link.Pong) > 1
    assert link.Stage in in_stun
    assert not {link.Ping, link.Pong} & in_stun


def test_a_destination_that_does_not_know_the_question_is_moved_to_as_well(
    calm: CalmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    say = ControlLink.say

    def of_old(self: ControlLink, message: link.LinkMessage) -> None:
        if not isinstance(message, link.Pong):
            say(self, message)

    monkeypatch.setattr(ControlLink, "say", of_old)
    assert moved(calm).clock_offset_ns is None
