"""What the texts of variables may be, and what each comes to. Pure.

Each function parses one kind of value, and raises ``ValueError``, ``KeyError`` or
``InvalidInputError`` for a text that is not of it; ``config`` says which variable it was.
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from godwit_protocol.facts import DeclaredFacts, Setting
from godwit_protocol.subjects import checked_name

GPUS_MAX: Final = 64
_NEXT_URL: Final = re.compile(r",(?=[a-z]+://)")


def server_urls(text: str) -> list[str]:
    """Return the URLs of the NATS servers that ``text`` names, with commas between.

    Raises ``ValueError`` if one of them is no such URL.
    """
    urls = text.split(",")
    for parts in map(urlsplit, urls):
        if parts.scheme not in {"nats", "tls", "ws", "wss"} or not parts.hostname:
            raise ValueError
        _ = parts.port  # raises ValueError if it is not a port
    return urls


def url(text: str) -> str:
    """Return ``text``, if it names NATS servers."""
    server_urls(text)
    return text


def without_credentials(urls: str) -> str:
    """Return URLs, with commas between, as they may be shown: without user and password.

    They need not be right: what is wrong is shown too.
    """
    return ",".join(map(_place, _NEXT_URL.split(urls)))


def _place(url: str) -> str:
    """A password may hold an ``@`` that should not stand there as it is."""
    before, _, place = url.rpartition("@")
    scheme, found, _ = before.partition("://")
    return scheme + found + place if found else place


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Return what parses a whole number from ``low`` to ``high``, both included."""

    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return parse


def number_or_auto(low: int, high: int) -> Callable[[str], int]:
    """Return what parses a whole number from ``low`` to ``high``, or ``auto``, which is 0."""
    parse = whole_number(low, high)
    return lambda text: 0 if text == "auto" else parse(text)


def name_or_nothing(text: str) -> str:
    """Return a name, or the empty text."""
    return checked_name(text, "configured") if text else ""


def name(text: str) -> str:
    """Return a name as subjects allow it."""
    return checked_name(text, "configured")


def address(text: str) -> str:
    """Return an address or a host name: any text without blanks."""
    if not text or any(character.isspace() for character in text):
        raise ValueError
    return text


def names(text: str) -> frozenset[str]:
    """Return the host names of ``NAME,…``, in small letters."""
    return frozenset(address(item.strip()).lower() for item in filter(None, text.split(",")))


def absolute_path(text: str) -> Path:
    """Return the path, made absolute, with ``~`` expanded."""
    if not text:
        raise ValueError
    return Path(text).expanduser().absolute()


def path_or_nothing(text: str) -> Path | None:
    """Return the path, made absolute, or nothing for the empty text."""
    return absolute_path(text) if text else None


def path_or_off(text: str) -> Path | None:
    """Return the path as ``absolute_path`` does, or nothing for ``off``."""
    return None if text == "off" else absolute_path(text)


def gpus(text: str) -> tuple[str, ...]:
    """Return one model name a GPU, of ``MODEL:COUNT,…``."""
    models: list[str] = []
    for item in filter(None, text.split(",")):
        model, _, count = item.strip().partition(":")
        if not model:
            raise ValueError
        models += [model] * whole_number(1, GPUS_MAX)(count or "1")
    if len(models) > GPUS_MAX:
        raise ValueError
    return tuple(models)


def switch(text: str) -> bool:
    """Return whether it is ``on``."""
    return {"on": True, "off": False}[text.strip().lower()]


def command(text: str) -> tuple[str, ...]:
    """Return a program by its absolute path and its arguments, quoted as for a shell."""
    words = tuple(shlex.split(text))
    if words and not Path(words[0]).is_absolute():
        raise ValueError
    return words


def log_level(text: str) -> int:
    """Return the level's number in ``logging``."""
    return logging.getLevelNamesMapping()[text.upper()]


def gpu_facts(text: str) -> DeclaredFacts:
    """Return facts, of ``NAME=VALUE,…``."""
    values: dict[str, str] = {}
    for item in filter(None, text.split(",")):
        name, equals, value = item.strip().partition("=")
        if name not in DeclaredFacts.__struct_fields__ or not equals or not value:
            raise ValueError
        values[name] = value if name == "driver" else Setting(value)
    return msgspec.convert(values, DeclaredFacts)
