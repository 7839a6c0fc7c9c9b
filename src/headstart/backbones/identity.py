"""The identity of a backbone, the same whether it was loaded in float32 or in bfloat16."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from transformers import PreTrainedModel

from headstart.records import Fingerprint

__all__ = ["config_digest", "fingerprint", "tokenizer_digest"]

DESCRIPTIVE = frozenset(
    {"architectures", "dtype", "torch_dtype", "quantization_config", "transformers_version", "use_cache", "id2label"}
    | {"label2id", "problem_type", "num_labels", "output_attentions", "output_hidden_states", "return_dict"}
)
"""Settings of a model on which what it computes does not depend, or of which the caller decides."""


def fingerprint(model: PreTrainedModel, *, name: str = "") -> Fingerprint:
    """Hash the architecture, the parameter names and shapes, and the values rounded to bfloat16.

    Rounding first makes a backbone loaded in float32 equal to the same one loaded in bfloat16. Tied parameters are
    counted once. About 1 s per 500 million parameters on one core; every core takes a share.
    """
    named = sorted(model.named_parameters(), key=lambda item: item[0])
    shapes = hashlib.sha256(repr([(key, tuple(value.shape)) for key, value in named]).encode())
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(lambda item: _digest(item[1]), named))
    weights = hashlib.sha256(b"".join(digests))
    return Fingerprint(
        architecture=type(model).__name__, shapes=shapes.hexdigest(), weights=weights.hexdigest(), name=name
    )


def config_digest(model: PreTrainedModel) -> str:
    """A hash of the settings that a model computes by, such as the base of its rotation; defaults do not count."""
    settings = {
        key: value
        for key, value in model.config.to_diff_dict().items()
        if key not in DESCRIPTIVE and not key.startswith("_")
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """A hash of how a tokenizer makes tokens, whatever its name and wherever it is stored."""
    if tokenizer.is_fast:
        # Each call sets truncation and padding anew, so they do not count.
        rules = {**json.loads(tokenizer.backend_tokenizer.to_str()), "truncation": None, "padding": None}
    else:
        rules = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    rules["special"] = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def _digest(values: torch.Tensor) -> bytes:
    rounded = values.detach().to("cpu", torch.bfloat16).contiguous().flatten()
    return hashlib.sha256(rounded.view(torch.uint8).numpy().data).digest()
