"""What is said of one environment variable, for the parser and for the docs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from godwit_protocol.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable. ``parse`` raises ``ValueError``, ``KeyError`` or ``InvalidInputError``."""

    name: str
    parse: Callable[[str], Any]
    allowed: str
    default: Callable[[Mapping[str, str]], str]
    default_shown: str
    doc: str
    read_by: frozenset[StrEnum]
    required_by: frozenset[StrEnum]


@dataclass(frozen=True, slots=True)
class VariableRow:
    """One line of the table in the docs."""

    name: str
    allowed: str
    default: str
    doc: str
    read_by: tuple[str, ...]


class ConfigError(InvalidInputError):
    """A variable has a value that cannot be right. ``variable`` and ``value``, as it may
    be shown, say which.
    """

    def __init__(self, variable: str, value: str, allowed: str) -> None:
        found = f"is {value!r}" if value else "is not set"
        super().__init__(f"{variable} {found}", hint=f"give {allowed}")
        self.variable = variable
        self.value = value
