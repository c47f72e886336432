"""Finds a guest's class by its name, or in a user's file. Knows nothing of machines or hosts."""

from __future__ import annotations

import importlib
import linecache
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

from godwit_protocol.errors import GuestError, InvalidInputError, NotFoundError

from .protocol import Guest

FILE_SUFFIX: Final = ".py"
_METHODS: Final = ("boot", "step", "save", "load")


def read_guest_file(guest: str) -> tuple[str, str]:
    """Return (guest, source) for a machine's specification from what a user typed.

    ``FILE.py:Class`` gives the file's bare name with the class, and its text; ``module:Class``
    stays, with no source. Raises ``InvalidInputError`` or ``NotFoundError``.
    """
    place, class_name = _split(guest)
    if not place.endswith(FILE_SUFFIX):
        return guest, ""
    path = Path(place)
    try:
        source = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no guest file {place}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"the guest file {place} cannot be read: {error}") from error
    return f"{path.name}:{class_name}", source


def load_guest(guest: str, source: str = "") -> Guest:
    """Construct the guest ``module:Class``, or ``NAME.py:Class`` whose file's text is ``source``.

    Raises ``GuestError`` if it cannot be imported or constructed or lacks a method, and
    ``InvalidInputError`` if ``guest`` has neither form.
    """
    place, class_name = _split(guest)
    module = _run_source(place, source) if place.endswith(FILE_SUFFIX) else _import(place)
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise GuestError(f"guest {guest}: {place} has no class {class_name}")
    try:
        instance = found()
    except Exception as error:
        raise GuestError(
            f"guest {guest} cannot be constructed: {_told(error)}",
            hint="the class is called without arguments; settings come from the environment",
        ) from error
    return _checked(guest, instance)


def _split(guest: str) -> tuple[str, str]:
    place, _, class_name = guest.rpartition(":")
    if not place or not class_name.isidentifier():
        raise InvalidInputError(
            f"{guest!r} names no guest", hint="give it as module:Class or FILE.py:Class"
        )
    return place, class_name


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise GuestError(
            f"module {name} cannot be imported: {_told(error)}",
            hint="install it where the host runs, or give the guest as FILE.py:Class",
        ) from error


def _run_source(file_name: str, source: str) -> ModuleType:
    # In sys.modules, as dataclasses and pickle expect, under a name that shadows no real module.
    module = ModuleType(f"godwit_guest_{file_name.removesuffix(FILE_SUFFIX)}")
    module.__file__ = file_name
    sys.modules[module.__name__] = module
    linecache.cache[file_name] = (len(source), None, source.splitlines(keepends=True), file_name)
    try:
        exec(compile(source, file_name, "exec"), module.__dict__)
    except Exception as error:
        raise GuestError(f"guest file {file_name} does not run: {_told(error)}") from error
    return module


def _checked(guest: str, instance: object) -> Guest:
    missing = [name for name in _METHODS if not callable(getattr(instance, name, None))]
    if missing:
        raise GuestError(
            f"guest {guest} has no method {', '.join(missing)}",
            hint=f"a guest has the methods {', '.join(_METHODS)}: see godwit.guests.protocol",
        )
    assert isinstance(instance, Guest)
    return instance


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
