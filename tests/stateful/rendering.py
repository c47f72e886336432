"""Inputs and effects as one readable line each, and what a world went through as its story."""

from __future__ import annotations

import functools
from enum import Enum
from typing import Any

import msgspec
from parts import START_NS, Role

from godwit_protocol.roles.effects import Effect

_HIDDEN = {"boot", "spec", "limits", "history"}
_fields_of = functools.cache(msgspec.structs.fields)


def show(value: Any) -> str:
    """The value's type and those of its fields that are not at their defaults."""
    if isinstance(value, msgspec.Struct):
        return f"{type(value).__name__}({', '.join(_fields(value))})"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, tuple):
        return f"[{', '.join(show(item) for item in value)}]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def _fields(struct: msgspec.Struct) -> list[str]:
    shown = []
    for info in _fields_of(type(struct)):
        value = getattr(struct, info.name)
        if value == info.default or info.name in _HIDDEN or value in ((), {}):
            continue
        shown.append(f"{info.name}={show(value)}")
    return shown


class Story:
    """What was told to whom, and what came of it. Rendered when somebody reads it, not before."""

    def __init__(self) -> None:
        self._happened: list[tuple[int, str, Any, str] | Effect] = []

    def told(self, now_ns: int, role: Role, what: Any, before: Any, after: Any) -> None:
        """A role was told ``what``, or began; its phase was ``before``, and is ``after``."""
        moved = f" [{before} => {after}]" if before != after else f" [{before}]"
        self._happened.append((now_ns, f"{role.value}: ", what, moved))

    def wanted(self, effect: Effect) -> None:
        """That wanted ``effect`` done."""
        self._happened.append(effect)

    def outside(self, now_ns: int, what: str) -> None:
        """Something happened that no role of this migration did."""
        self._happened.append((now_ns, "", what, ""))

    def lines(self) -> list[str]:
        """A line each."""
        return [self._line(item) for item in self._happened]

    def _line(self, item: tuple[int, str, Any, str] | Effect) -> str:
        if isinstance(item, Effect):
            return f"{'':>14}  -> {show(item)}"
        now_ns, who, what, moved = item
        return f"{(now_ns - START_NS) / 1e6:>10.2f} ms  {who}{show(what)}{moved}"

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """As hypothesis prints what is noted of a failure."""
        printer.text("\n".join(self.lines()))
