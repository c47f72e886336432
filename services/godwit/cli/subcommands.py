"""The subcommands of ``godwit``, each imported when it is asked for.

Whoever lists machines need not wait for what draws reports; the help of ``godwit`` imports all.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup

PLACES: Final = {
    "demo": "demo:demo",
    "up": "up:up",
    "machine": "machine:app",
    "migrate": "migration:migrate",
    "migration": "migration:app",
    "events": "events:events",
    "watch": "watch:watch",
    "gpus": "gpus:gpus",
    "capacity": "capacity:capacity",
    "estimate": "estimate:estimate",
    "estimates": "estimates:estimates",
    "replay": "replay:app",
    "archive": "archive:app",
    "keys": "keys:app",
    "simulate": "simulate:simulate",
}
"""By name, in the order of the help: the module beside this one, and the function or app in it."""


class Lazily(dict[str, Any]):
    """The names of ``PLACES``; a command is there when it is taken."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(PLACES))

    def get(self, name: str, default: Any = None) -> Any:
        """The command; ``default`` if there is none of the name."""
        if name in self and self[name] is None:
            self[name] = _load(name)
        return super().get(name, default)


class Subcommands(TyperGroup):
    """A group that imports what it is asked for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings | {"commands": Lazily()})


def _load(name: str) -> Any:
    module, attribute = PLACES[name].split(":")
    found = getattr(import_module(f".{module}", __package__), attribute)
    if isinstance(found, typer.Typer):
        command: Any = typer.main.get_group(found)
    else:
        alone = typer.Typer(add_completion=False)
        alone.command(name)(found)
        command = typer.main.get_command(alone)
    command.name = name
    return command
