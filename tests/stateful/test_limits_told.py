"""Which limits the source is told to start with: the tables of the steps leave limits out."""

from __future__ import annotations

import msgspec
import pytest
from parts import COORDINATOR, LIMITS
from situations import SOON_NS, situations

from godwit_protocol.events.migration import AbortReason, MigrationStarted
from godwit_protocol.roles import coordinator
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.effects import Append

START = inp.StartKnown(start=True, reason=AbortReason.NONE, message="")


@pytest.mark.parametrize("wanted", [None, 0, 250_000])
def test_a_source_starts_with_the_bandwidth_that_was_asked_for_last(wanted: int | None) -> None:
    plain = situations(COORDINATOR, coordinator.Phase.DECIDING)[0].state
    limits = msgspec.structs.replace(LIMITS, bandwidth_bytes_per_second=125_000)
    deciding = msgspec.structs.replace(plain, limits=limits, bandwidth_bytes_per_second=wanted)
    _, effects = coordinator.step(deciding, START, SOON_NS)
    (started,) = [effect.event for effect in effects if isinstance(effect, Append)]
    assert isinstance(started, MigrationStarted)
    kept = 125_000 if wanted is None else wanted
    assert started.limits == msgspec.structs.replace(LIMITS, bandwidth_bytes_per_second=kept)
