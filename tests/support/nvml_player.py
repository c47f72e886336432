"""NVML's functions played from a recording: the test double of the library, and of nothing else."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from godwit.gpus.library import NOT_SUPPORTED, NvmlError, Plain, spelled
from godwit.gpus.recording import Answer, Failure, Origin, Recording, read, written


class Player:
    """Gives each question's answers in order, and its last one ever after.

    A question that a recorded file lacks is an error of the test; a synthetic one leaves out what
    it is not about, which is then not supported.
    """

    def __init__(self, recording: Recording) -> None:
        self.asked: list[str] = []
        self._origin = recording.origin
        self._answers: dict[str, deque[Answer]] = {}
        for answer in recording.answers:
            self._answers.setdefault(answer.asked, deque()).append(answer)

    def ask(self, function: str, *arguments: Plain) -> Plain:
        asked = spelled(function, arguments)
        self.asked.append(asked)
        answers = self._answers.get(asked)
        if answers is None:
            assert self._origin is Origin.SYNTHETIC, f"nobody recorded {asked}"
            raise NvmlError(function, NOT_SUPPORTED, "Not Supported")
        answer = answers.popleft() if len(answers) > 1 else answers[0]
        if answer.failure is not None:
            raise NvmlError(function, answer.failure.status, answer.failure.text)
        return read(answer.answer)


def synthetic(answers: Mapping[str, Any]) -> Recording:
    """A recording that no GPU made: answers by question; a list in a tuple is a series of them."""
    return Recording(
        origin=Origin.SYNTHETIC,
        driver="",
        boards=(),
        library="",
        answers=tuple(_answers(answers)),
    )


def _answers(answers: Mapping[str, Any]) -> Iterable[Answer]:
    for asked, given in answers.items():
        for one in given if isinstance(given, tuple) else (given,):
            if isinstance(one, Failure):
                yield Answer(asked, failure=one)
            else:
                yield Answer(asked, written(one))
