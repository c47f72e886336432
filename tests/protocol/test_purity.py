"""The pure core really is: what a fresh interpreter holds once all of it is imported."""

from __future__ import annotations

import json
import subprocess
import sys

_LIST = "import json, sys; print(json.dumps(sorted(sys.modules)))"
_IMPORT_ALL = """
import json, pkgutil, sys
import godwit_protocol
names = [m.name for m in pkgutil.walk_packages(godwit_protocol.__path__, "godwit_protocol.")]
for name in names:
    __import__(name)
print(json.dumps(sorted(sys.modules)))
"""
_OF_THE_CORE = {"copy", "dataclasses", "fractions", "hashlib", "heapq", "struct", "zlib"}
"""All of the standard library that the core brings beyond msgspec. msgspec itself brings types of
data (``datetime``, ``decimal``, ``enum``, ``uuid`` and what those need, also ``_socket``), and the
interpreter holds ``io``, ``os``, ``sys`` and ``time`` before it runs a line: that the core does not
name those is the contract in pyproject.toml, which ``make lint`` checks.
"""
_WORLDLY = {"asyncio", "godwit", "msgpack", "nats", "numpy", "random", "socket", "ssl", "threading"}


def _modules(program: str) -> set[str]:
    ran = subprocess.run(
        [sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True
    )
    return set(json.loads(ran.stdout))


def test_the_core_brings_nothing_that_touches_the_world() -> None:
    msgspec = _modules(f"import msgspec, pkgutil; {_LIST}")
    core = _modules(_IMPORT_ALL)
    assert "godwit_protocol.roles.source" in core
    brought = {name for name in core - msgspec if not name.startswith(("_", "godwit_protocol"))}
    assert brought <= _OF_THE_CORE
    assert not core & _WORLDLY
