"""Make ``sentences.txt`` from ``alice29.txt``; see README.md beside this file. Run by hand, once.

``python split_sentences.py path/to/alice29.txt > sentences.txt``
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

# Headings, verse and ornaments are set in by more than the two columns that open a paragraph.
_SET_IN = re.compile(r"^ {3,}\S.*$", re.MULTILINE)
_LINE_END_HYPHEN = re.compile(r"(?<=\w)-\n(?=\w)")
# The edition puts two columns, or a line's end, after a sentence, and a capital begins the next.
_SENTENCE_END = re.compile(r"(?<=[.!?])(['\")]*)\s+(?=['\"(_]*[A-Z])")
_WORDS_MIN = 5
_CHARACTERS_MAX = 200


def _paragraphs(text: str) -> Iterator[str]:
    prose = _SET_IN.sub("", text.replace("\r\n", "\n").replace("`", "'"))
    for block in re.split(r"\n\s*\n", prose):
        yield " ".join(_LINE_END_HYPHEN.sub("-", block).split())


def _sentences(text: str) -> Iterator[str]:
    for paragraph in _paragraphs(text):
        for sentence in _SENTENCE_END.sub(r"\1\n", paragraph).split("\n"):
            if len(sentence.split()) >= _WORDS_MIN and len(sentence) <= _CHARACTERS_MAX:
                yield sentence


def main() -> None:
    """Write each sentence once, in the book's order, one a line."""
    text = Path(sys.argv[1]).read_text(encoding="ascii")
    sys.stdout.writelines(f"{sentence}\n" for sentence in dict.fromkeys(_sentences(text)))


if __name__ == "__main__":
    main()
