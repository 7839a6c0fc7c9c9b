"""Tiny encoders with task heads: heads set by hand, modules, and what transformers and PEFT compute with them."""

import copy
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from headstart.backbones import Encoded, EncoderBackbone, Head, TextFormat
from headstart.formats import TASK_TYPES
from headstart.kinds import LoraModule, LoraSettings, Module, stack_of
from headstart.records import HeadCard
from headstart.testing import tiny_backbone

ENCODERS = ("bert", "roberta", "distilbert")
TASKS = ("classification", "regression", "span")
LABELS = ("negative", "neutral", "positive")
STYLE = TextFormat(max_input=64, max_target=16)
QUERIES = {"bert": ("query", "value"), "roberta": ("query", "value"), "distilbert": ("q_lin", "v_lin")}
CARDS = {
    "classification": HeadCard(task="classification", outputs=3, labels=LABELS),
    "regression": HeadCard(task="regression", outputs=1),
    "span": HeadCard(task="span", outputs=2),
}
TEXTS = ("a warm film", "dull", "it never comes to life")
"""Of unequal lengths, so that a batch of them holds padding."""
TARGETS = {
    "classification": ("positive", "negative", "neutral"),
    "regression": ("0.5", "-2", "3.25"),
    "span": ("warm", "dull", "comes to"),
}


@cache
def encoder(family: str) -> EncoderBackbone:
    """A tiny encoder with random weights; shared, so nobody may change it."""
    if family == "distilbert":
        return _distilbert()
    backbone = tiny_backbone(family)
    assert isinstance(backbone, EncoderBackbone)
    return backbone


def _distilbert() -> EncoderBackbone:
    tokenizer = encoder("bert").tokenizer
    config = DistilBertConfig(
        vocab_size=len(tokenizer), dim=32, hidden_dim=48, n_layers=2, n_heads=4, max_position_embeddings=256,
        num_labels=3, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0, qa_dropout=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    model = DistilBertForSequenceClassification(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            norm = value.ndim == 1 and not name.endswith("bias")
            value.normal_(mean=1.0 if norm else 0.0, std=0.2, generator=generator)
    return EncoderBackbone(model, tokenizer, name="tiny-distilbert")


def write(backbone: EncoderBackbone, folder: Path) -> Path:
    """The folder of the backbone and its tokenizer."""
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    return folder


def random_head(backbone: EncoderBackbone, card: HeadCard, *, seed: int = 0) -> Head:
    """A head whose every number is normal."""
    generator = torch.Generator().manual_seed(seed)
    fresh = backbone.fresh_head(card, seed=0)
    return Head(fresh.card, {name: torch.randn(v.shape, generator=generator) for name, v in fresh.tensors.items()})


def random_module(
    backbone: EncoderBackbone,
    card: HeadCard | None = None,
    *,
    seed: int = 0,
    rank: int = 2,
    targets: tuple[str, ...] | None = None,
    name: str = "",
) -> LoraModule:
    """A LoRA module that changes every logit, with a random head for `card`."""
    settings = LoraSettings(rank, 2.0 * rank, targets or QUERIES[backbone.name.removeprefix("tiny-")])
    fresh = LoraModule.fresh(backbone, settings, name=name or f"random-{seed}", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    drawn = {key: 0.3 * torch.randn(value.shape, generator=generator) for key, value in fresh.parameters().items()}
    return fresh.with_parameters(drawn).with_head(card and random_head(backbone, card, seed=seed))


def items(backbone: EncoderBackbone, card: HeadCard, *, text_format: TextFormat = STYLE) -> list[Encoded]:
    """`TEXTS` with the targets of the head's task."""
    targets = TARGETS[card.task] if card.task != "classification" else card.labels[:3]
    return backbone.encode(zip(TEXTS, targets, strict=False), text_format, head=card)


def ours(backbone: EncoderBackbone, modules: Sequence[Module], rows: Sequence[Encoded]) -> Tensor:
    """What Headstart computes with a stack of modules and their heads, (N, M, V), all rows in one batch."""
    with torch.inference_mode(), stack_of(modules, backbone).attach(backbone):
        return backbone.target_logits(backbone.batch(rows, range(len(rows))), modules=len(modules))


def model_of(backbone: EncoderBackbone, head: Head) -> Any:
    """transformers' own model for the head's task, with the backbone's weights and the head's."""
    config = copy.deepcopy(backbone.model.config)
    config.num_labels = head.card.outputs
    family = AutoModelForQuestionAnswering if head.card.task == "span" else AutoModelForSequenceClassification
    model = family.from_config(config).eval()
    weights = backbone.model.base_model.state_dict()
    model.base_model.load_state_dict({name: weights[name] for name in model.base_model.state_dict()})
    others = {name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")}
    assert others == head.tensors.keys(), "the head has other tensors than transformers'"
    with torch.no_grad():
        for name, value in head.tensors.items():
            assert model.get_parameter(name).shape == value.shape
            model.get_parameter(name).copy_(value)
    return model


def plain(model: Any, item: Encoded, *, task: str) -> Tensor:
    """What a model of transformers or PEFT says of one example without padding: (1, outputs), or (2, T) of a span."""
    ids = torch.tensor([item.prompt])
    with torch.inference_mode():
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    if task != "span":
        logits: Tensor = found.logits
        return logits
    return torch.stack([found.start_logits[0], found.end_logits[0]])[:, -len(item.prompt) :]


def in_peft(backbone: EncoderBackbone, head: Head, config: Any, *, seed: int = 0) -> Any:
    """transformers' model inside PEFT's, every tuned number of module and head random."""
    from peft import get_peft_model

    assert str(getattr(config.task_type, "value", config.task_type)) == TASK_TYPES[head.card.task]
    model = get_peft_model(model_of(backbone, head), config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.normal_(std=0.3, generator=generator)
    return model
