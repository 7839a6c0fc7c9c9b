"""Tiny backbones whose weights are a formula, so that another library, in another process, can make them again."""

import zlib
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from headstart.backbones import Backbone, EncoderBackbone
from headstart.testing import tiny_backbone

IDS = torch.tensor([[5, 9, 33, 200, 17, 4], [7, 8, 30, 4, 1, 1]])
"""Two texts, the second one with padding."""

BLOCKS: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 259,
    "max_position_embeddings": 64,
}  # fmt: skip
ENCODER = BLOCKS | {"num_labels": 3, "pad_token_id": 1}
T5: dict[str, Any] = {
    "vocab_size": 259, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4,
    "decoder_start_token_id": 0,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "vocab_size": 259, "n_embd": 32, "n_inner": 48, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 0,
    "eos_token_id": 0,
}  # fmt: skip


def by_formula(name: str, value: Tensor) -> Tensor:
    """0.3·sin(0.37·i + c) for the i-th number, with c from the name; 1 more for a layer norm."""
    places = torch.arange(value.numel(), dtype=torch.float64).view(value.shape)
    drawn = 0.3 * torch.sin(places * 0.37 + zlib.crc32(name.encode()) % 1000)
    return (drawn + 1 if "norm" in name.lower() or ".ln_" in name else drawn).float()


MODELS: dict[str, tuple[type[PreTrainedModel], type[PreTrainedConfig], dict[str, Any]]] = {
    "bert": (BertForSequenceClassification, BertConfig, ENCODER),
    "roberta": (RobertaForSequenceClassification, RobertaConfig, ENCODER),
    "llama": (LlamaForCausalLM, LlamaConfig, BLOCKS),
    "gpt2": (GPT2LMHeadModel, GPT2Config, GPT2),
    "t5": (T5ForConditionalGeneration, T5Config, T5),
}
"""By family: the model, its configuration, and what that is made from."""


def formula_backbone(family: str) -> Backbone:
    """A backbone of the family with 2 layers of width 32, every parameter `by_formula`."""
    kind, described, shape = MODELS[family]
    model = kind(described(**shape))
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(by_formula(name, value))
    made = EncoderBackbone if family in ("bert", "roberta") else Backbone
    return made(model, tiny_backbone("gpt2").tokenizer, name=family)


def answers(backbone: Backbone, modules: list[Any]) -> Tensor:
    """What a stack of modules computes with the backbone's own head, (N, …): the classes of both texts of `IDS`, or
    the first four logits behind the last token of the first one. Without modules, what the backbone computes (N = 1).
    """
    classes = backbone.name in ("bert", "roberta")
    size = max(1, len(modules))
    ids = (IDS if classes else IDS[:1]).repeat(size, 1)
    inputs = {"input_ids": ids, "attention_mask": (ids != 1).long()}
    if backbone.seq2seq:
        inputs["decoder_input_ids"] = torch.tensor([[0, 9, 4]]).repeat(size, 1)
    attached = type(modules[0]).stack(modules, backbone).attach(backbone) if modules else nullcontext()
    with torch.inference_mode(), attached:
        logits: Tensor = backbone.model(**inputs).logits
    return logits.view(size, 2, 3) if classes else logits[:, -1, :4]
