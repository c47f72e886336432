"""all-MiniLM-L6-v2: from token numbers to a sentence's embedding, with numpy. Opens no file.

A BERT of 6 layers (Devlin et al. 2018; the model's config.json), the mean of its last layer over
all tokens, scaled to length one. Weights are views of one block of memory, laid out by ``LAYOUT``.
Texts that are embedded together share each pass over the weights, which is what costs most; the
last bits of an embedding may depend on its company, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

DIMENSIONS: Final = 384
TOKENS_MAX: Final = 256
"""``max_seq_length`` of sentence_bert_config.json: the rest of a longer text is not read."""

_VOCABULARY: Final = 30522
_POSITIONS: Final = 512
_LAYERS: Final = 6
_HEADS: Final = 12
_HEAD_DIMENSIONS: Final = DIMENSIONS // _HEADS
_INTERMEDIATE: Final = 1536
_LAYER_NORM_EPSILON: Final = np.float32(1e-12)


@dataclass(frozen=True, slots=True)
class Block:
    """One array of the layout: the file's tensors that it holds, stacked along the first axis."""

    tensors: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Its bytes: float32, a multiple of 64, so that each block begins on a cache line."""
        return 4 * int(np.prod(self.shape))


def _layer_blocks(layer: int) -> Iterator[tuple[str, Block]]:
    prefix, d, i = f"encoder.layer.{layer}.", DIMENSIONS, _INTERMEDIATE
    qkv = [f"{prefix}attention.self.{part}." for part in ("query", "key", "value")]
    # Query, key and value lie side by side: one multiplication makes all three.
    yield f"{layer}.qkv.weight", Block(tuple(f"{part}weight" for part in qkv), (3 * d, d))
    yield f"{layer}.qkv.bias", Block(tuple(f"{part}bias" for part in qkv), (3 * d,))
    for name, tensor, shape in (
        ("attended", "attention.output.dense", (d, d)),
        ("attended.norm", "attention.output.LayerNorm", (d,)),
        ("intermediate", "intermediate.dense", (i, d)),
        ("output", "output.dense", (d, i)),
        ("output.norm", "output.LayerNorm", (d,)),
    ):
        yield f"{layer}.{name}.weight", Block((f"{prefix}{tensor}.weight",), shape)
        yield f"{layer}.{name}.bias", Block((f"{prefix}{tensor}.bias",), shape[:1])


def _blocks() -> Iterator[tuple[str, Block]]:
    for name, rows in (("word", _VOCABULARY), ("position", _POSITIONS), ("token_type", 2)):
        yield name, Block((f"embeddings.{name}_embeddings.weight",), (rows, DIMENSIONS))
    for part in ("weight", "bias"):
        yield f"embedded.norm.{part}", Block((f"embeddings.LayerNorm.{part}",), (DIMENSIONS,))
    for layer in range(_LAYERS):
        yield from _layer_blocks(layer)


LAYOUT: Final[Mapping[str, Block]] = dict(_blocks())
"""The arrays of the model in the order in which they lie in memory, without gaps."""

WEIGHTS_BYTES: Final = sum(block.size_bytes for block in LAYOUT.values())


def views(memory: memoryview, offset: int) -> dict[str, Floats]:
    """Return the arrays of ``LAYOUT`` as views of ``memory`` from byte ``offset`` on; no copy."""
    arrays: dict[str, Floats] = {}
    for name, block in LAYOUT.items():
        flat = np.frombuffer(memory, np.float32, block.size_bytes // 4, offset)
        arrays[name] = flat.reshape(block.shape)
        offset += block.size_bytes
    return arrays


# erf as x·P(x²)/Q(x²) on [-4, 4], highest power first: the float32 approximation of Eigen's
# ``generic_fast_erf_float``, also used by XLA. At most 4.2e-7 from erf (a test measures it).
_ERF_P: Final = np.array(
    [
        -2.72614225801306e-10,
        2.77068142495902e-08,
        -2.10102402082508e-06,
        -5.69250639462346e-05,
        -7.34990630326855e-04,
        -2.95459980854025e-03,
        -1.60960333262415e-02,
    ],
    np.float32,
)
_ERF_Q: Final = np.array(
    [
        -1.45660718464996e-05,
        -2.13374055278905e-04,
        -1.68282697438203e-03,
        -7.37332916720468e-03,
        -1.42647390514189e-02,
    ],
    np.float32,
)


def _polynomial(coefficients: Floats, x: Floats) -> Floats:
    value: Floats = coefficients[0] * x
    for coefficient in coefficients[1:-1]:
        value += coefficient
        value *= x
    value += coefficients[-1]
    return value


def erf(x: Floats) -> Floats:
    """Return the error function of each element."""
    x = np.clip(x, np.float32(-4), np.float32(4))
    square = x * x
    x *= _polynomial(_ERF_P, square)
    x /= _polynomial(_ERF_Q, square)
    return x


def _gelu(x: Floats) -> Floats:
    value = erf(x * np.float32(0.5**0.5))
    value += np.float32(1)
    value *= x
    value *= np.float32(0.5)
    return value


def _softmax(scores: Floats) -> Floats:
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


class MiniLm:
    """The model over weights that lie elsewhere; constructing it costs microseconds."""

    def __init__(self, weights: Mapping[str, Floats]) -> None:
        self._weights = weights

    def embed(self, texts: Sequence[Sequence[int]]) -> Floats:
        """Return the embeddings of the texts, float32 of shape (texts, 384), each of length one.

        A text is 1 to ``TOKENS_MAX`` token numbers, with the marks of beginning and end.
        """
        lengths = [len(tokens) for tokens in texts]
        assert 0 < min(lengths) <= max(lengths) <= TOKENS_MAX
        ends = np.cumsum(lengths)
        rows = [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
        x = self._layers(self._embedded(texts, lengths), rows)
        means = np.stack([x[each].mean(axis=0) for each in rows])
        return np.asarray(means / np.sqrt(np.square(means).sum(axis=1, keepdims=True)), np.float32)

    def _embedded(self, texts: Sequence[Sequence[int]], lengths: Sequence[int]) -> Floats:
        """All texts' tokens below each other, shape (tokens, 384)."""
        w = self._weights
        tokens = np.concatenate([np.asarray(text, np.int64) for text in texts])
        positions = np.concatenate([np.arange(length) for length in lengths])
        return self._normed(
            "embedded", w["word"][tokens] + w["position"][positions] + w["token_type"][0]
        )

    def _layers(self, x: Floats, rows: Sequence[slice]) -> Floats:
        for layer in range(_LAYERS):
            x = self._normed(f"{layer}.attended", x + self._attended(layer, x, rows))
            intermediate = _gelu(self._dense(f"{layer}.intermediate", x))
            x = self._normed(f"{layer}.output", x + self._dense(f"{layer}.output", intermediate))
        return x

    def _dense(self, name: str, x: Floats) -> Floats:
        product: Floats = x @ self._weights[f"{name}.weight"].T
        product += self._weights[f"{name}.bias"]
        return product

    def _normed(self, name: str, x: Floats) -> Floats:
        x = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(x).mean(axis=-1, keepdims=True)
        x /= np.sqrt(variance + _LAYER_NORM_EPSILON)
        x *= self._weights[f"{name}.norm.weight"]
        x += self._weights[f"{name}.norm.bias"]
        return x

    def _attended(self, layer: int, x: Floats, rows: Sequence[slice]) -> Floats:
        """A text's tokens attend to each other, and to no other text's."""
        parts = self._dense(f"{layer}.qkv", x).reshape(len(x), 3, _HEADS, _HEAD_DIMENSIONS)
        heads = np.concatenate([_attention(parts[each]) for each in rows])
        return self._dense(f"{layer}.attended", heads)


def _attention(parts: Floats) -> Floats:
    """Of one text; ``parts`` are query, key and value, shape (tokens, 3, heads, head's 32)."""
    query, key, value = parts.transpose(1, 2, 0, 3)
    scores = (query @ key.transpose(0, 2, 1)) * np.float32(_HEAD_DIMENSIONS**-0.5)
    heads: Floats = (_softmax(scores) @ value).transpose(1, 0, 2)
    return heads.reshape(len(parts), DIMENSIONS)
