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
_FORBIDDEN = {
    "asyncio",
    "ctypes",
    "fcntl",
    "godwit",
    "logging",
    "mmap",
    "msgpack",
    "multiprocessing",
    "nats",
    "numpy",
    "random",
    "secrets",
    "select",
    "signal",
    "socket",
    "ssl",
    "structlog",
    "subprocess",
    "tempfile",
    "threading",
    "uvloop",
}
_OF_PYTHON = {"time", "posix", "io", "os", "sys"}
"""The interpreter itself holds these before it runs a line; the contract in pyproject.toml, not
this test, keeps the core from naming them.
"""


def _modules(program: str) -> set[str]:
    ran = subprocess.run(
        [sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True
    )
    return set(json.loads(ran.stdout))


def test_the_core_brings_nothing_that_touches_the_world() -> None:
    bare = _modules(_LIST)
    msgspec = _modules(f"import msgspec, hashlib, pkgutil; {_LIST}")
    core = _modules(_IMPORT_ALL)
    assert "godwit_protocol.roles.source" in core
    brought = {name.split(".")[0] for name in core - msgspec - bare}
    assert not brought & _FORBIDDEN, brought & _FORBIDDEN
    assert not {name.split(".")[0] for name in core - bare} & (_FORBIDDEN - {"threading"})
    assert bare >= _OF_PYTHON & core, "more than the interpreter itself brings"
