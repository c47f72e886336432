"""A real English text to fill an index with, and questions that fit it. Pure data; see README.md.

``split_sentences.py`` is how ``sentences.txt`` was made; nothing imports it.
"""

from __future__ import annotations

from importlib.resources import files


def _lines(name: str) -> list[str]:
    return files(__name__).joinpath(name).read_text(encoding="utf-8").splitlines()


def sentences() -> list[str]:
    """Return the corpus: more than a thousand different sentences, in the book's order."""
    return _lines("sentences.txt")


def questions() -> list[str]:
    """Return forty short queries, each about something in the corpus."""
    return _lines("questions.txt")
