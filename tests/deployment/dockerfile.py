"""The ``Dockerfile`` as the tests see it: its instructions, in order, with their stage."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

PATH = Path(__file__).parents[2] / "Dockerfile"


@dataclass(frozen=True)
class Instruction:
    keyword: str
    arguments: str
    stage: int


def load() -> list[Instruction]:
    lines = [line for line in PATH.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    split = [line.split(None, 1) for line in joined if line.strip()]
    stages = accumulate(int(keyword == "FROM") for keyword, _ in split)
    return [
        Instruction(keyword, arguments.strip(), stage)
        for (keyword, arguments), stage in zip(split, stages, strict=True)
    ]


def final_stage() -> list[Instruction]:
    instructions = load()
    return [item for item in instructions if item.stage == instructions[-1].stage]


def environment() -> dict[str, str]:
    """The variables that every container of the image gets."""
    words = (shlex.split(item.arguments) for item in final_stage() if item.keyword == "ENV")
    return dict(word.split("=", 1) for line in words for word in line)
