"""The transition table of a role: which input is legal in which phase, and where it may lead.

The table is data. ``step`` looks its row up, runs the row's handler and asserts that the phase that
came out is one that the row names, so that the diagram in the docs, generated from the rows, cannot
lie. An input without a row is refused: as the peer's error if the peer sent it, as ours otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Generic, NamedTuple, Protocol, TypeVar

from ..errors import LocalProtocolError, RemoteProtocolError
from .effects import Effect
from .inputs import Input, PeerInput


class Phased(Protocol):
    """A role's state, as far as the table sees it."""

    @property
    def phase(self) -> StrEnum:
        """Where the role is."""


S = TypeVar("S", bound=Phased)
Effects = tuple[Effect, ...]
Handler = Callable[[S, Input, int], tuple[S, Effects]]


class Row(NamedTuple, Generic[S]):
    """What happens to one input in one phase. ``leads_to`` names every phase that may come out."""

    handler: Handler[S]
    leads_to: frozenset[StrEnum]

    @property
    def passes_over(self) -> bool:
        """Whether the input is legal and changes nothing."""
        return self.handler is _pass_over


class Transition(NamedTuple):
    """One arrow of the diagram."""

    phase: StrEnum
    input_type: type[Input]
    leads_to: StrEnum


class Table(Generic[S]):
    """All rows of one role."""

    def __init__(self, role: str, rows: Mapping[tuple[StrEnum, type[Input]], Row[S]]) -> None:
        self.role = role
        self.rows = rows

    def step(self, state: S, given: Input, now_ns: int) -> tuple[S, Effects]:
        """Return the next state and what is to be done, in order.

        Raises ``RemoteProtocolError`` or ``LocalProtocolError`` if the input is illegal now.
        """
        row = self.rows.get((state.phase, type(given)))
        if row is None:
            raise self._refusal(state, given)
        after, effects = row.handler(state, given, now_ns)
        if after.phase not in row.leads_to:
            raise LocalProtocolError(
                f"{self.role}: {type(given).__name__} in {state.phase} led to {after.phase}, "
                f"which its row does not name"
            )
        return after, effects

    def transitions(self) -> Iterator[Transition]:
        """Every arrow, in the order of the rows."""
        for (phase, input_type), row in self.rows.items():
            for after in sorted(row.leads_to):
                yield Transition(phase, input_type, after)

    def _refusal(self, state: S, given: Input) -> Exception:
        kind = RemoteProtocolError if isinstance(given, PeerInput) else LocalProtocolError
        return kind(f"{self.role}: {type(given).__name__} is illegal in phase {state.phase}")


def row(handler: Handler[S], *leads_to: StrEnum) -> Row[S]:
    """A row that may lead to any of ``leads_to``."""
    return Row(handler, frozenset(leads_to))


def ignored(phase: StrEnum) -> Row[S]:
    """A row for an input that is legal in ``phase`` and changes nothing: it came late, or twice."""
    return Row(_pass_over, frozenset({phase}))


def _pass_over(state: S, _given: Input, _now_ns: int) -> tuple[S, Effects]:
    return state, ()
