"""A guest's settings from its environment (``--env K=V``). Knows no guest in particular."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TypeVar

from godwit_protocol.errors import InvalidInputError
from godwit_protocol.quantities import parse_size

ChoiceT = TypeVar("ChoiceT", bound=StrEnum)


def whole_number(name: str, default: int, *, minimum: int = 0, maximum: int = 2**62) -> int:
    """Return the variable ``name``: a whole number, or a size such as ``64MiB`` in bytes.

    Raises ``InvalidInputError`` naming the variable.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    try:
        number = parse_size(text)
    except InvalidInputError as error:
        raise InvalidInputError(f"{name}: {error.message}", hint=error.hint) from error
    if not minimum <= number <= maximum:
        raise InvalidInputError(f"{name}={text!r} is not within {minimum} to {maximum}")
    return number


def choice(name: str, default: ChoiceT) -> ChoiceT:
    """Return the variable ``name`` as a member of ``default``'s enumeration.

    Raises ``InvalidInputError`` naming the variable and what it may be.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    try:
        return type(default)(text)
    except ValueError as error:
        members = ", ".join(type(default))
        raise InvalidInputError(f"{name}={text!r} is unknown", hint=f"one of {members}") from error
