"""Guests are found by module or in a file, and what is wrong with one is said."""

import dataclasses

import pytest

from godwit.guests.loader import load_guest, read_guest_file
from godwit_protocol.errors import GuestError, InvalidInputError, NotFoundError

BODY = """
    def boot(self, machine): pass
    def step(self, requests): return requests
    def save(self): return b""
    def load(self, machine, checkpoint): pass
"""


def test_a_file_is_read_where_it_lies_and_run_from_its_text(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        f"import dataclasses\n@dataclasses.dataclass\nclass Mine:{BODY}    n: int = 3\n"
    )
    guest, source = read_guest_file(f"{path}:Mine")
    assert guest == "mine.py:Mine"
    path.unlink()
    instance = load_guest(guest, source)
    assert instance.step([b"x"]) == [b"x"]
    assert dataclasses.asdict(instance) == {"n": 3}


def test_a_module_keeps_its_name():
    assert read_guest_file("package.module:Class") == ("package.module:Class", "")


@pytest.mark.parametrize("guest", ["", "module", "module:", ":Class", "m:not a name"])
def test_what_names_no_guest_is_refused(guest):
    with pytest.raises(InvalidInputError, match="names no guest"):
        read_guest_file(guest)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(NotFoundError):
        read_guest_file(f"{tmp_path}/none.py:Class")
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(InvalidInputError):
        read_guest_file(f"{tmp_path}/folder.py:Class")


@pytest.mark.parametrize(
    ("guest", "source", "said"),
    [
        ("no.such.module:Class", "", "cannot be imported: ModuleNotFoundError"),
        ("json:JSONDecoder", "", "has no method boot, step, save, load"),
        ("json:Missing", "", "has no class Missing"),
        ("json:dumps", "", "has no class dumps"),
        ("g.py:G", "class G(:", "does not run: SyntaxError"),
        ("g.py:G", f"class G:{BODY}    def __init__(self, x): pass", "cannot be constructed"),
    ],
)
def test_a_guest_that_does_not_fit_is_told_why(guest, source, said):
    with pytest.raises(GuestError, match=said):
        load_guest(guest, source)
