"""One simulated stream: its messages, findable by subject and by filters, and who is brought them.

Subjects that differ only in the id that they name have one shape. A filter is compared with each
shape once, and never with a message. It must not know how messages travel.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from godwit_protocol.stored import MESSAGE_ID_HEADER, Stored
from godwit_protocol.subjects import matches

ANY = ("*", ">")


class Reader(Protocol):
    """Who is brought every message that one of its filters matches."""

    filters: Sequence[str]

    @property
    def alive(self) -> bool:
        """Whether anybody still reads."""

    def deliver(self, stored: Stored) -> None:
        """Bring a message."""


@dataclass(eq=False)
class Shape:
    """All subjects of a stream that differ only in their id: ``tokens`` is one of them."""

    tokens: list[str]
    indices: list[int] = field(default_factory=list)
    """Of the messages with such a subject."""
    readers: list[Reader] = field(default_factory=list)


class Stream:
    """See the module. A message's sequence is its index and one."""

    def __init__(self) -> None:
        self.messages: list[Stored] = []
        self.by_subject: dict[str, list[int]] = {}
        self.by_message_id: dict[str, tuple[int, float]] = {}
        """Where a message is, and when it was stored."""
        self._shape_of: list[Shape] = []
        self._by_id: dict[str, list[int]] = {}
        self._shapes: dict[str, Shape] = {}
        self._matching: dict[str, list[Shape]] = {}
        """By filter, with no id: the shapes that it matches."""
        self._joined: list[Reader] = []

    def last(self, subject: str) -> Stored | None:
        """The last message of a subject."""
        indices = self.by_subject.get(subject)
        return self.messages[indices[-1]] if indices else None

    def join(self, reader: Reader) -> None:
        """Bring it every message from now on. Its filters name no id."""
        self._joined = [one for one in self._joined if one.alive]
        self._joined.append(reader)
        for shape in self._shapes.values():
            shape.readers = [one for one in shape.readers if one.alive]
        for wanted in reader.filters:
            assert _without_id(wanted.split("."))[1] == "", "a reader's filter names no id"
            for shape in self._shapes_for(wanted):
                if reader not in shape.readers:
                    shape.readers.append(reader)

    def add(self, stored: Stored, now_s: float) -> None:
        """Store a message."""
        tokens = stored.subject.split(".")
        general, name = _without_id(tokens)
        shape = self._shapes.get(general) or self._new_shape(general, tokens)
        index = len(self.messages)
        self.messages.append(stored)
        self._shape_of.append(shape)
        shape.indices.append(index)
        self.by_subject.setdefault(stored.subject, []).append(index)
        self._by_id.setdefault(name, []).append(index)
        self.by_message_id[stored.headers[MESSAGE_ID_HEADER]] = (index + 1, now_s)

    def deliver(self) -> None:
        """Bring the last message to all who want it."""
        for reader in self._shape_of[-1].readers:
            if reader.alive:
                reader.deliver(self.messages[-1])

    def lose_last(self) -> Stored | None:
        """Forget the last message, as if it had never been stored; its sequence is given again.

        Returns what stands in its subject now.
        """
        assert not self._joined, "what a reader was brought cannot be taken back"
        stored = self.messages.pop()
        self._shape_of.pop().indices.pop()
        self.by_subject[stored.subject].pop()
        self._by_id[_without_id(stored.subject.split("."))[1]].pop()
        del self.by_message_id[stored.headers[MESSAGE_ID_HEADER]]
        return self.last(stored.subject)

    def find(self, filters: Sequence[str], after_sequence: int) -> list[Stored]:
        """All messages after a sequence that match any of the filters, in order."""
        found: set[int] = set()
        for wanted in filters:
            for indices in self._candidates(wanted):
                found.update(indices[bisect_left(indices, after_sequence) :])
        return [self.messages[index] for index in sorted(found)]

    def _candidates(self, wanted: str) -> Iterator[list[int]]:
        """The indices of all messages that match, in lists that are each in order."""
        general, name = _without_id(wanted.split("."))
        shapes = self._shapes_for(general if name else wanted)
        if name:
            yield [index for index in self._by_id.get(name, ()) if self._shape_of[index] in shapes]
        else:
            yield from (shape.indices for shape in shapes)

    def _shapes_for(self, wanted: str) -> list[Shape]:
        shapes = self._matching.get(wanted)
        if shapes is None:
            tokens = wanted.split(".")
            shapes = [shape for shape in self._shapes.values() if matches(tokens, shape.tokens)]
            self._matching[wanted] = shapes
        return shapes

    def _new_shape(self, general: str, tokens: list[str]) -> Shape:
        shape = self._shapes[general] = Shape(tokens)
        for wanted, shapes in self._matching.items():
            if matches(wanted.split("."), tokens):
                shapes.append(shape)
        shape.readers = [
            reader
            for reader in self._joined
            if any(shape in self._shapes_for(wanted) for wanted in reader.filters)
        ]
        return shape


def _without_id(tokens: list[str]) -> tuple[str, str]:
    """A subject or filter with ``*`` for the migration, machine or host that it is about; and that
    one's name, or nothing.
    """
    place = 6 if tokens[2] == "host" else 3
    if place >= len(tokens) or tokens[place] in ANY:
        return ".".join(tokens), ""
    return ".".join((*tokens[:place], "*", *tokens[place + 1 :])), tokens[place]
