"""docs/guests.md is run, not only read: its example, its requests, its variables."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
from in_process_machine import InProcessMachine, moved

from godwit import guests
from godwit.guests.embedder import Embedder
from godwit.guests.memhog import Memhog
from godwit.guests.protocol import Guest
from godwit.guests.trainer import Trainer

DOCUMENT = Path(__file__).parents[2].joinpath("docs", "guests.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return DOCUMENT.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.fixture
def notebook(tmp_path: Path) -> type[Guest]:
    """The documented class, imported from a file outside the project."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    file = tmp_path / "notebook.py"
    file.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("notebook", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Notebook  # type: ignore[no-any-return]


def test_the_example_keeps_its_lines_through_ten_moves(notebook: type[Guest]) -> None:
    guest, here = notebook(), InProcessMachine.of(4096)
    assert isinstance(guest, Guest)
    there = here.like()
    guest.boot(here)
    for number in range(1, 11):
        assert guest.step([b"note %d" % number]) == [b"line %d" % number]
        guest = moved(guest, here, there)
        here, there = there, here
    (text,) = guest.step([b"read"])
    assert text.splitlines() == [b"note %d" % number for number in range(1, 11)]
    assert guest.step([b"x" * 4096]) == [b"error: the notebook is full"]
    assert guest.step([b"read"]) == [text]


def documented_requests(title: str) -> list[bytes]:
    requests = re.findall(r'^\| `(\{"op".*?\})` \|', section(title), re.MULTILINE)
    assert requests
    return [request.encode() for request in requests]


@pytest.mark.parametrize("guest_class", [Trainer, Memhog])
def test_documented_requests_are_answered(guest_class: type[Guest]) -> None:
    guest = guest_class()
    guest.boot(InProcessMachine.of(4 << 20))
    requests = documented_requests(guest_class.__name__.lower())
    assert all("error" not in json.loads(reply) for reply in guest.step(requests))


def test_documented_requests_to_the_embedder_are_answered(embedder: Embedder) -> None:
    replies = embedder.step(documented_requests("embedder"))
    assert all("error" not in json.loads(reply) for reply in replies)


def test_every_variable_is_documented_and_no_other() -> None:
    pattern = re.compile(r"GODWIT_(?:EMBEDDER|TRAINER|MEMHOG)_[A-Z]+")
    (folder,) = guests.__path__
    in_code = {
        name
        for file in Path(folder).glob("*.py")
        for name in re.findall(rf'"({pattern.pattern})"', file.read_text(encoding="utf-8"))
    }
    assert in_code == set(pattern.findall(DOCUMENT))
