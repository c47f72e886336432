"""``docs/deployment.md`` speaks of what is there."""

from __future__ import annotations

import re

import compose_file
from compose_file import ROOT

PAGE = ROOT / "docs/deployment.md"
TEXT = PAGE.read_text()


def test_every_link_leads_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert targets
    assert [target for target in targets if not (PAGE.parent / target).exists()] == []


def test_every_container_is_explained() -> None:
    rows = "".join(line for line in TEXT.splitlines() if line.startswith("|"))
    rows = rows.replace("host-N-", "host-1-")
    names = {name for name in compose_file.load() if not name.startswith("host-2")}
    assert {name for name in names if f"`{name}`" not in rows} == set()


def test_files_of_variables_are_installed_for_their_owner_alone() -> None:
    """The event log's URL may hold a password."""
    lines = [line for line in TEXT.splitlines() if line.startswith("# install ") and ".env" in line]
    assert lines
    assert [line for line in lines if " -m 0600 " not in line] == []


def test_every_file_that_is_named_exists() -> None:
    named = re.findall(r"(?:deploy|tests|requirements)/[\w./-]*\w\.(?:py|txt|env|conf|json)", TEXT)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
