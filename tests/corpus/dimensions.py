"""Tiny random backbones of any size, and the one that a module fits."""

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from tests.corpus.case import Dimensions
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from headstart.backbones import Backbone
from headstart.formats import TASK_TYPES, AttentionPrefixLayout, PrefixLayout, PromptLayout, StoredModule
from headstart.testing.backbones import tiny_backbone

__all__ = ["DIMENSIONS", "LARGEST", "backbone_of", "dimensions_of"]

STARTS = {
    "model.": "llama", "transformer.": "gpt2", "encoder.block.": "t5", "decoder.block.": "t5", "bert.": "bert",
    "roberta.": "roberta",
}  # fmt: skip
DIMENSIONS = {
    "llama": Dimensions("llama"), "gpt2": Dimensions("gpt2", key_heads=4), "t5": Dimensions("t5", key_heads=4),
    "bert": Dimensions("bert", key_heads=4), "roberta": Dimensions("roberta", key_heads=4),
}  # fmt: skip
"""The backbones that modules are made for."""

LABELS = 3
"""The number of labels in the encoders' own heads, which nothing here uses."""

LARGEST = 64
"""Wider backbones are not built: a test of readers need not wait for them."""


@lru_cache(maxsize=8)
def backbone_of(dims: Dimensions) -> Backbone:
    """The backbone of these sizes, every parameter drawn anew, in float64 so that rounding hides no difference."""
    plain = tiny_backbone(dims.family, layers=dims.layers, seed=dims.seed)
    vocabulary = plain.model.config.vocab_size
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(dims.seed)
        model = MODELS[dims.family](dims, vocabulary)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
            else:
                parameter.normal_(mean=0.0 if name.endswith("bias") else 1.0, std=0.1)
    return type(plain)(model.double(), plain.tokenizer, name=f"tiny-{dims.family}-{dims.layers}")


def _llama(dims: Dimensions, vocabulary: int) -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=dims.width, intermediate_size=dims.inner, num_hidden_layers=dims.layers,
            num_attention_heads=dims.heads, num_key_value_heads=dims.key_heads, head_dim=dims.head,
            max_position_embeddings=64, tie_word_embeddings=False,
        )
    )  # fmt: skip


def _gpt2(dims: Dimensions, vocabulary: int) -> Any:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary, n_embd=dims.width, n_inner=dims.inner, n_layer=dims.layers, n_head=dims.heads,
            n_positions=64, bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip


def _t5(dims: Dimensions, vocabulary: int) -> Any:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=vocabulary, d_model=dims.width, d_kv=dims.head, d_ff=dims.inner, num_layers=dims.layers,
            num_decoder_layers=dims.layers, num_heads=dims.heads, dropout_rate=0.0, tie_word_embeddings=False,
            feed_forward_proj="gated-gelu", decoder_start_token_id=0, pad_token_id=0,
        )
    )  # fmt: skip


def _bert(dims: Dimensions, vocabulary: int) -> Any:
    return BertForSequenceClassification(
        BertConfig(**_encoder(dims), vocab_size=vocabulary, max_position_embeddings=64, pad_token_id=0)
    )


def _roberta(dims: Dimensions, vocabulary: int) -> Any:
    # RoBERTa counts positions from the one after its padding token's id.
    return RobertaForSequenceClassification(
        RobertaConfig(**_encoder(dims), vocab_size=vocabulary, max_position_embeddings=66, pad_token_id=1)
    )


def _encoder(dims: Dimensions) -> dict[str, Any]:
    return {
        "hidden_size": dims.width, "intermediate_size": dims.inner, "num_hidden_layers": dims.layers,
        "num_attention_heads": dims.heads, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        "num_labels": LABELS,
    }  # fmt: skip


MODELS = {"llama": _llama, "gpt2": _gpt2, "t5": _t5, "bert": _bert, "roberta": _roberta}


def dimensions_of(stored: StoredModule) -> Dimensions | None:
    """The sizes of a backbone that this module may have been made for; `None` where none is built here."""
    layout, encodes = stored.layout, stored.config.get("task_type") in TASK_TYPES.values()
    causal = "bert" if encodes else "llama"
    if encodes and any(name.startswith("classifier.out_proj.") for name in stored.head):
        causal = "roberta"
    if isinstance(layout, AttentionPrefixLayout):
        heads, layers = layout.heads or 4, max(dict(layout.layers).values())
        family = "t5" if "decoder" in dict(layout.layers) else causal
        width = layout.projection[1] if layout.projection else layout.dim
        return _small(Dimensions(family, layers, width, 2 * width, heads, heads, layout.dim // heads))
    if isinstance(layout, PrefixLayout):
        family = "t5" if layout.seq2seq else causal
        heads, head = layout.heads, layout.head_dim
        return _small(Dimensions(family, layout.layers, heads * head, 2 * heads * head, heads, heads, head))
    if isinstance(layout, PromptLayout):
        return _small(
            Dimensions("t5" if layout.seq2seq else causal, 2, layout.dim, 2 * layout.dim, 4, 4, layout.dim // 4)
        )
    family = next((found for start, found in STARTS.items() if any(w.startswith(start) for w in layout.widths)), "")
    if not family:
        return None
    numbers = [int(found[1]) for path in layout.widths if (found := re.search(r"\.(\d+)\.", path))]
    layers = 1 + max(numbers, default=1)
    return _small(_sized(family, layers, layout.widths))


WHOLE = "mlp|self_attn|attn|SelfAttention|EncDecAttention|DenseReluDense"
"""Sublayers that adapters stand behind."""


def _sized(family: str, layers: int, widths: Mapping[str, tuple[int | None, int | None]]) -> Dimensions:
    """Sizes read from the layers' (in, out); what no tensor shows follows from the rest."""

    def seen(pattern: str, side: int) -> int | None:
        return next((w[side] for path, w in widths.items() if re.search(pattern, path) and w[side]), None)

    queries, keys = seen(r"\.(q|q_proj|query)$", 1), seen(r"\.(k|v|k_proj|v_proj|key|value)$", 1)
    width = seen(r"\.(q|k|v|q_proj|k_proj|v_proj|query|key|value)$", 0) or seen(rf"\.({WHOLE})$", 1)
    width = width or seen(r"\.(c_attn|ln_1|wi_0|wi_1|intermediate\.dense)$", 0)
    width = width or seen(r"\.(wo|c_proj|down_proj|ln_1|output\.dense|LayerNorm|\w*embeddings|embed_tokens|wte)$", 1)
    width = width or queries or keys or 0
    inner = seen(r"(\.(wo|down_proj|mlp\.c_proj)|[0-9]\.output\.dense)$", 0)
    inner = inner or seen(r"\.(wi_0|wi_1|up_proj|gate_proj|c_fc|intermediate\.dense)$", 1) or 2 * width
    queries = queries or (keys if family == "t5" and keys else width)
    head = math.gcd(queries, keys or queries)
    head = head // 4 if head == queries and head % 8 == 0 else head
    return Dimensions(
        family, layers, width, inner, max(queries // max(head, 1), 1), (keys or queries) // max(head, 1), head
    )


def _small(dims: Dimensions) -> Dimensions | None:
    return dims if 0 < dims.width <= LARGEST and dims.head > 0 else None
