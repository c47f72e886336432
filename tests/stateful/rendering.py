"""Inputs and effects as one readable line each."""

from __future__ import annotations

import functools
from enum import Enum
from typing import Any

import msgspec

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
