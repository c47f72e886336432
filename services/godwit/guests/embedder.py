"""``embedder``: semantic search with a real model, all of it in the vGPU's framebuffer.

The framebuffer holds a header page, the weights of all-MiniLM-L6-v2 (90 MB, never written again)
and a growing index of vectors and texts. Requests: ``embed``, ``add``, ``search``, ``count``;
docs/guests.md has them. Knows nothing of files once it has booted: ``load`` only builds views.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec

from godwit_protocol.errors import GuestError
from godwit_protocol.machine import PAGE_BYTES

from .header import HEADER_BYTES, Header
from .minilm import WEIGHTS_BYTES, Floats, MiniLm, views
from .minilm_package import copy_weights, load_tokenizer
from .protocol import Machine
from .requests import Request, answered
from .settings import whole_number
from .vector_index import ENTRY_BYTES, IndexWord, VectorIndex

ADD_TEXTS_MAX: Final = 16
"""Texts that one ``add`` may carry: they are embedded in one step, and a stun waits for its end."""

TEXT_CHARACTERS_MAX: Final = 8192
CAPACITY_MAX: Final = 16_384
"""Entries, unless GODWIT_EMBEDDER_CAPACITY says otherwise: a search reads all that there are."""

_MAGIC: Final = b"GWEMBED1"
_INDEX_OFFSET: Final = HEADER_BYTES + -(-WEIGHTS_BYTES // PAGE_BYTES) * PAGE_BYTES

Text = Annotated[str, msgspec.Meta(max_length=TEXT_CHARACTERS_MAX)]
Texts = Annotated[list[Text], msgspec.Meta(min_length=1, max_length=ADD_TEXTS_MAX)]


class Embed(Request, frozen=True, tag="embed"):
    """Asks for the embedding of a text."""

    text: Text


class Add(Request, frozen=True, tag="add"):
    """Adds one text, or a few, to the index: all of them or none."""

    text: Text | Texts


class Search(Request, frozen=True, tag="search"):
    """Asks for the ``k`` entries nearest to a text."""

    text: Text
    k: Annotated[int, msgspec.Meta(ge=1, le=100)] = 5


class Count(Request, frozen=True, tag="count"):
    """Asks how full the index is."""


class Embedder:
    """The guest. Raises ``UnsupportedError`` if the model's package is not installed."""

    idle: Final = True
    """It never works but on a request."""

    def __init__(self) -> None:
        self._tokenizer = load_tokenizer()
        self._decoder = msgspec.json.Decoder(Embed | Add | Search | Count)

    def boot(self, machine: Machine) -> None:
        """Copy the weights into the framebuffer and begin an empty index.

        Raises ``GuestError`` if there is no vGPU or its framebuffer is too small.
        """
        memory = _framebuffer(machine)
        header = Header(memory, _MAGIC)
        header[IndexWord.CAPACITY] = _capacity(len(memory))
        copy_weights(views(memory, HEADER_BYTES))
        header.begin()
        self._build(memory, header)

    def step(self, requests: Sequence[bytes]) -> Sequence[bytes]:
        """Answer each request; what cannot be done is answered by an error."""
        return [answered(self._decoder, self._answer, request) for request in requests]

    def save(self) -> bytes:
        """Return the header: everything is in the framebuffer."""
        return self._header.checkpoint()

    def load(self, machine: Machine, checkpoint: bytes) -> None:
        """Build the views. Raises ``CorruptError`` if the framebuffer is not the checkpoint's."""
        memory = _framebuffer(machine)
        header = Header(memory, _MAGIC)
        header.verify(checkpoint)
        self._build(memory, header)

    def _build(self, memory: memoryview, header: Header) -> None:
        self._header = header
        self._model = MiniLm(views(memory, HEADER_BYTES))
        self._index = VectorIndex(memory, _INDEX_OFFSET, header)

    def _answer(self, request: Embed | Add | Search | Count) -> dict[str, Any]:
        match request:
            case Embed(text):
                return {"vector": self._embed([text])[0].tolist()}
            case Add(text):
                return self._add([text] if isinstance(text, str) else text)
            case Search(text, k):
                return {"hits": self._index.search(self._embed([text])[0], k)}
            case Count():
                free = self._index.text_bytes_free
                return {
                    "count": self._index.count,
                    "capacity": self._index.capacity,
                    "text_bytes_free": free,
                }

    def _add(self, texts: Sequence[str]) -> dict[str, Any]:
        encoded = [text.encode() for text in texts]
        self._index.require_room(len(texts), sum(map(len, encoded)))
        vectors = self._embed(texts)
        added = [self._index.add(*entry) for entry in zip(vectors, encoded, strict=True)]
        return {"added": len(added), "first": added[0], "count": self._index.count}

    def _embed(self, texts: Sequence[str]) -> Floats:
        return self._model.embed([self._tokenizer.encode(text).ids for text in texts])


def _framebuffer(machine: Machine) -> memoryview:
    if not machine.vgpus:
        raise GuestError(
            f"machine {machine.name} has no vGPU; embedder keeps its weights in one",
            hint="start it with --vgpu PROFILE",
        )
    return machine.vgpus[0].framebuffer


def _capacity(framebuffer_bytes: int) -> int:
    fits = (framebuffer_bytes - _INDEX_OFFSET) // ENTRY_BYTES
    if fits < 1:
        raise GuestError(
            f"the framebuffer has {framebuffer_bytes} bytes; embedder needs {_INDEX_OFFSET} for its"
            f" weights and {ENTRY_BYTES} for each text",
            hint="choose a vGPU profile with a larger framebuffer",
        )
    return min(fits, whole_number("GODWIT_EMBEDDER_CAPACITY", CAPACITY_MAX, minimum=1))
