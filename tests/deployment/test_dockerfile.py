"""What must be true of the ``Dockerfile``, which nothing here can build."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import compose_file
import dockerfile
from compose_file import ROOT

INSTRUCTIONS = dockerfile.load()


def _ignored() -> tuple[set[str], list[str]]:
    """What ``.dockerignore`` lets through, and what it leaves out of that."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    allowed = {line[1:] for line in patterns if line.startswith("!")}
    return allowed, [line for line in patterns[1:] if not line.startswith("!")]


def _copied() -> set[str]:
    words = [item.arguments.split() for item in INSTRUCTIONS if item.keyword == "COPY"]
    local = [line for line in words if not line[0].startswith("--from")]
    return {source.rstrip("/") for line in local for source in line[:-1]}


def test_exactly_what_is_copied_is_sent_to_the_engine() -> None:
    allowed, left_out = _ignored()
    assert _copied() == allowed
    assert left_out == ["**/__pycache__"]


def test_everything_copied_exists() -> None:
    assert all((ROOT / path).exists() for path in _copied())


def test_the_files_that_a_build_reads_are_copied() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    roots = re.search(r'^only-include = \["(\w+)/\w+", "(\w+)/\w+"\]$', project, re.MULTILINE)
    assert roots is not None
    assert {"pyproject.toml", "README.md", "LICENSE", *roots.groups()} <= _copied()
    for item in INSTRUCTIONS:
        for path in re.findall(r"requirements/[\w.]+", item.arguments):
            assert (ROOT / path).is_file()


def test_both_stages_have_the_same_pinned_python() -> None:
    bases = [item.arguments.partition(" ")[0] for item in INSTRUCTIONS if item.keyword == "FROM"]
    assert len(bases) == 2
    assert len(set(bases)) == 1
    version = re.fullmatch(r"python:3\.(\d+)-slim-\w+", bases[0])
    assert version is not None
    assert int(version[1]) >= 11


def test_the_image_ends_as_the_user_that_compose_names() -> None:
    users = [item.arguments for item in dockerfile.final_stage() if item.keyword == "USER"]
    assert users == [compose_file.load()["coordinator"].raw["user"]]


def test_the_image_owns_the_directories_that_compose_mounts() -> None:
    runs = [item.arguments for item in dockerfile.final_stage() if item.keyword == "RUN"]
    created = re.search(r"install --directory --owner godwit .* (/\S+)$", " ".join(runs))
    assert created is not None
    volumes = {path for s in compose_file.load().values() if s.is_ours for path in s.mounts()}
    assert volumes == {created[1]}


def test_the_programs_of_the_environment_are_found_first() -> None:
    path = dockerfile.environment()["PATH"].split(":")
    copied = [
        item.arguments.split()[-1] for item in dockerfile.final_stage() if "--from" in str(item)
    ]
    assert path[0] == str(PurePosixPath(copied[0]) / "bin")
