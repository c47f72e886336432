"""Waiting for a log that does not answer."""

from __future__ import annotations

import pytest

from godwit.runtime.event_log import LogFullError
from godwit.runtime.patience import patiently
from godwit_protocol.errors import ConflictError, GodwitError, UnreachableError


class Silent:
    """A call that is not answered the first ``times`` times."""

    def __init__(self, times: int, kind: type[GodwitError] = UnreachableError) -> None:
        self.calls = 0
        self._times = times
        self._kind = kind

    async def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self._times:
            raise self._kind("no answer")
        return "answer"


@pytest.mark.parametrize("kind", [UnreachableError, LogFullError])
async def test_it_calls_again_until_there_is_an_answer(kind: type[GodwitError]) -> None:
    call = Silent(times=2, kind=kind)
    assert await patiently(call) == "answer"
    assert call.calls == 3


async def test_it_ends() -> None:
    with pytest.raises(UnreachableError, match="no answer"):
        await patiently(Silent(times=10**9), patience_s=0.25)


async def test_other_errors_are_not_waited_out() -> None:
    async def conflict() -> None:
        raise ConflictError("taken")

    with pytest.raises(ConflictError, match="taken"):
        await patiently(conflict)
