"""``docker-compose.yml`` as the tests see it: each service's own command, environment and needs."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PATH = ROOT / "docker-compose.yml"


class Condition(StrEnum):
    """What a service waits for in another."""

    HEALTHY = "service_healthy"
    ENDED_WELL = "service_completed_successfully"


@dataclass(frozen=True)
class ComposeService:
    """One entry under ``services``; ``raw`` is all of it."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    depends_on: dict[str, Condition]
    health_command: tuple[str, ...]
    raw: dict[str, Any]

    @property
    def is_ours(self) -> bool:
        return "build" in self.raw

    @property
    def is_started(self) -> bool:
        """By ``docker compose up``, without a profile."""
        return "profiles" not in self.raw

    @property
    def is_one_shot(self) -> bool:
        return self.is_ours and not self.health_command

    @property
    def is_observing(self) -> bool:
        return self.raw.get("profiles") == ["observability"]

    def mounts(self) -> dict[str, str]:
        """Source, a volume's name or a path, by the path where it is in the container."""
        parts = (mount.split(":") for mount in self.raw.get("volumes", []))
        return {part[1]: part[0] for part in parts}

    def scratch(self) -> list[str]:
        """Paths of the file systems that begin empty."""
        return [mount.partition(":")[0] for mount in self.raw.get("tmpfs", [])]


def load() -> dict[str, ComposeService]:
    document = yaml.safe_load(_with_defaults(PATH.read_text()))
    return {name: _service(name, raw) for name, raw in document["services"].items()}


def _with_defaults(text: str) -> str:
    """As Docker reads it where none of the variables is set: ``${NAME:-default}``."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def is_runnable(module: str) -> bool:
    """Whether ``python -m module`` has something to run."""
    found = importlib.util.find_spec(module)
    if found is None or found.submodule_search_locations is None:
        return found is not None
    return importlib.util.find_spec(f"{module}.__main__") is not None


def _service(name: str, raw: dict[str, Any]) -> ComposeService:
    health = raw.get("healthcheck", {}).get("test", ["CMD"])
    assert health[0] == "CMD", f"{name}: only the form without a shell is understood here"
    needs = raw.get("depends_on", {})
    return ComposeService(
        name=name,
        command=(*raw.get("entrypoint", ()), *raw.get("command", ())),
        environment=raw.get("environment", {}),
        depends_on={other: Condition(need["condition"]) for other, need in needs.items()},
        health_command=tuple(health[1:]),
        raw=raw,
    )
