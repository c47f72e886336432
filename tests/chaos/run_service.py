"""Runs a service of a host, and stops it (SIGSTOP) at a step that a test has named, once.

``python -m run_service godwit.source_host``. The production code knows nothing of it: this module
wraps the runner of the roles and runs the service's own module. A plan is a file named after the
service; it is renamed when the step is reached, so that the service passes that step from then on,
also in its next life. What becomes of the stopped process is the test's to decide.

Steps: ``do say go`` is reached before an effect is performed, ``hear peer_staged`` when an input is
told, before the core has seen it.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from godwit.destination_host import arrival
from godwit.host import role
from godwit.source_host import departure
from godwit_protocol.roles import effects as fx
from godwit_protocol.roles.effects import Effect
from godwit_protocol.roles.inputs import Input


def plan_path(directory: Path, host: str, service: str) -> Path:
    """Where the plan for a service is."""
    return directory / "plans" / f"{host}-{service}.json"


def effect_step(effect: Effect) -> str:
    """The name of the step before an effect."""
    name = f"do {_snake(type(effect).__name__)}"
    match effect:
        case fx.Append(event=event):
            return f"{name} {event.TYPE}"
        case fx.Say(message=message):
            return f"{name} {_snake(type(message).__name__)}"
        case _:
            return name


def input_step(given: Input) -> str:
    """The name of the step at which an input is heard."""
    return f"hear {_snake(type(given).__name__)}"


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


class SteppedRunner(role.RoleRunner[Any]):
    """A runner that tells each step before it takes it."""

    def __init__(
        self, core: role.Core[Any], perform: Callable[[Effect], None], now_ns: Callable[[], int]
    ) -> None:
        self._machine: str = perform.__self__.machine  # type: ignore[attr-defined]

        def reach_and_perform(effect: Effect) -> None:
            _reach(self._machine, effect_step(effect))
            perform(effect)

        super().__init__(core, reach_and_perform, now_ns)

    def tell(self, given: Input) -> None:
        _reach(self._machine, input_step(given))
        super().tell(given)


def _reach(machine: str, step: str) -> None:
    plan = plan_path(Path(os.environ["GODWIT_DIR"]), os.environ["GODWIT_HOST"], _service())
    try:
        wanted = json.loads(plan.read_bytes())
    except FileNotFoundError:
        return
    if wanted == {"machine": machine, "step": step}:
        plan.rename(plan.with_suffix(".reached"))
        os.kill(os.getpid(), signal.SIGSTOP)


def _service() -> str:
    return sys.argv[1].rpartition(".")[2]


def main() -> None:
    departure.RoleRunner = SteppedRunner  # type: ignore[misc]
    arrival.RoleRunner = SteppedRunner  # type: ignore[misc]
    runpy.run_module(sys.argv[1], run_name="__main__")


if __name__ == "__main__":
    main()
