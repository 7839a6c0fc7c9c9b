"""Sound modules to alter: of every kind, written by Headstart and by PEFT."""

import copy
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from tests.corpus.case import Dimensions, Source
from tests.corpus.dimensions import DIMENSIONS, backbone_of
from tests.corpus.foreign import adapterhub_sources, opendelta_sources

from headstart.backbones import EncoderBackbone, Head
from headstart.kinds import Module, fresh_module, save_module
from headstart.records import CARD_FILE, HeadCard
from headstart.testing.oracles.by_peft import with_head

__all__ = ["made_sources"]

CLASSES = HeadCard(task="classification", outputs=3, labels=("yes", "no", "maybe"))
VALUE = HeadCard(task="regression", outputs=1)
SPAN = HeadCard(task="span", outputs=2)
Own = tuple[str, str, Mapping[str, Any]]
OWN: tuple[Own | tuple[*Own, HeadCard], ...] = (
    ("lora", "llama", {"rank": 3}), ("lora", "t5", {"rank": 2}), ("lora", "gpt2", {"rank": 2}),
    ("lora", "llama", {"rank": 2, "targets": ("embed_tokens", "v_proj")}),
    ("lora", "bert", {"rank": 2}, CLASSES), ("lora", "roberta", {"rank": 2}, CLASSES), ("lora", "bert", {"rank": 2}),
    ("lora", "bert", {"rank": 2, "targets": ("word_embeddings", "key")}, SPAN),
    ("ia3", "llama", {}), ("ia3", "t5", {}), ("ia3", "bert", {}, CLASSES), ("ia3", "roberta", {}, VALUE),
    ("bitfit", "gpt2", {}), ("bitfit", "gpt2", {"targets": ("ln_1", "c_fc")}),
    ("bitfit", "bert", {}, CLASSES), ("bitfit", "roberta", {"targets": ("query", "LayerNorm")}, SPAN),
    ("prompt", "llama", {"length": 4}), ("prompt", "t5", {"length": 4}), ("prompt", "bert", {"length": 4}, CLASSES),
    ("prompt", "roberta", {"length": 4}, SPAN), ("prompt", "bert", {"length": 4}),
    ("prefix", "gpt2", {"length": 4}), ("prefix", "t5", {"length": 4}),
    ("prefix", "llama", {"length": 4, "reparametrized": True, "bottleneck": 6}),
    ("prefix", "bert", {"length": 4}, CLASSES), ("prefix", "roberta", {"length": 4}, CLASSES),
    ("prefix", "t5", {"length": 3, "encoder": True, "cross_attention": True}),
    ("prefix", "t5", {"length": 3, "encoder": True, "reparametrized": True, "bottleneck": 5}),
    ("prefix", "bert", {"length": 3, "encoder": True}, VALUE),
    ("adapter", "llama", {"bottleneck": 4, "placement": "pfeiffer"}), ("adapter", "t5", {"bottleneck": 4}),
    ("adapter", "gpt2", {"bottleneck": 4, "placement": "houlsby"}),
    ("adapter", "bert", {"bottleneck": 4, "placement": "houlsby"}, CLASSES),
    ("adapter", "roberta", {"bottleneck": 4, "placement": "pfeiffer"}, CLASSES),
    ("adapter", "bert", {"bottleneck": 4, "placement": "pfeiffer"}, SPAN),
)  # fmt: skip
"""Kind, backbone, shape and, on an encoder, what a task head answers."""

LLAMA_LORA = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]}
BERT_LORA = {"r": 2, "target_modules": ["query", "value"], "task_type": "SEQ_CLS"}
BY_PEFT: tuple[tuple[str, Any, Mapping[str, Any]], ...] = (
    ("llama", LoraConfig, LLAMA_LORA), ("llama", LoraConfig, LLAMA_LORA | {"use_rslora": True}),
    ("llama", LoraConfig, LLAMA_LORA | {"use_dora": True}), ("llama", LoraConfig, LLAMA_LORA | {"lora_bias": True}),
    ("llama", LoraConfig, LLAMA_LORA | {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 5}}),
    ("llama", LoraConfig, LLAMA_LORA | {"target_modules": r".*\.(q|v)_proj"}),
    ("llama", LoraConfig, LLAMA_LORA | {"target_modules": "all-linear"}),
    ("llama", LoraConfig, LLAMA_LORA | {"layers_to_transform": [1]}),
    ("llama", LoraConfig, LLAMA_LORA | {"target_modules": ["embed_tokens", "q_proj"]}),
    ("gpt2", LoraConfig, {"r": 2, "target_modules": ["c_attn"], "bias": "lora_only", "fan_in_fan_out": True}),
    ("gpt2", LoraConfig, {"r": 2, "target_modules": ["wte"]}),
    ("t5", LoraConfig, {"r": 2, "target_modules": ["q", "wo"], "task_type": "SEQ_2_SEQ_LM"}),
    ("bert", LoraConfig, BERT_LORA), ("roberta", LoraConfig, BERT_LORA),
    ("bert", LoraConfig, BERT_LORA | {"bias": "lora_only"}), ("roberta", LoraConfig, BERT_LORA | {"use_dora": True}),
    ("bert", LoraConfig, BERT_LORA | {"task_type": "QUESTION_ANS"}),
    ("bert", LoraConfig, BERT_LORA | {"target_modules": ["word_embeddings"]}),
    ("llama", IA3Config, {}), ("t5", IA3Config, {"task_type": "SEQ_2_SEQ_LM"}),
    ("bert", IA3Config, {"task_type": "SEQ_CLS"}),
    ("llama", PromptTuningConfig, {"num_virtual_tokens": 4, "task_type": "CAUSAL_LM"}),
    ("t5", PromptTuningConfig, {"num_virtual_tokens": 4, "task_type": "SEQ_2_SEQ_LM"}),
    ("bert", PromptTuningConfig, {"num_virtual_tokens": 4, "task_type": "SEQ_CLS"}),
    ("bert", PromptTuningConfig, {"num_virtual_tokens": 4, "task_type": "QUESTION_ANS"}),
    ("gpt2", PrefixTuningConfig, {"num_virtual_tokens": 4, "task_type": "CAUSAL_LM"}),
    ("bert", PrefixTuningConfig, {"num_virtual_tokens": 4, "task_type": "SEQ_CLS"}),
)  # fmt: skip


def made_sources(folder: Path, *, seed: int) -> list[Source]:
    """Modules of every kind in `folder`: with a card and without, in the layouts of PEFT, AdapterHub and OpenDelta."""
    sources = []
    for number, (kind, family, shape, *answering) in enumerate(OWN):
        dims, target = DIMENSIONS[family], folder / f"own-{number}-{kind}-{family}"
        fresh = fresh_module(kind, backbone_of(dims), shape, name=target.name, seed=seed)
        module = _moved(fresh, seed + number)
        save_module(module.with_head(_head(dims, *answering, seed=seed)) if answering else module, target)
        bare = folder / f"bare-{number}-{kind}-{family}"
        shutil.copytree(target, bare, ignore=shutil.ignore_patterns(CARD_FILE))
        sources += [Source(target, dims), Source(bare, dims)]
    for number, (family, made, settings) in enumerate(BY_PEFT):
        target = folder / f"peft-{number}-{family}"
        _by_peft(target, DIMENSIONS[family], made(**settings), seed=seed + number)
        sources.append(Source(target, DIMENSIONS[family]))
    return [*sources, *adapterhub_sources(folder, seed=seed), *opendelta_sources(folder, seed=seed)]


def _moved(module: Module, seed: int) -> Module:
    generator = torch.Generator().manual_seed(seed)
    values = {
        name: value + 0.2 * torch.randn(value.shape, generator=generator) for name, value in module.parameters().items()
    }
    return module.with_parameters(values)


def _head(dims: Dimensions, card: HeadCard, *, seed: int) -> Head:
    backbone, generator = backbone_of(dims), torch.Generator().manual_seed(seed)
    assert isinstance(backbone, EncoderBackbone)  # `OWN` gives heads to encoders only
    fresh = backbone.fresh_head(card, seed=seed)
    tensors = {name: torch.randn(value.shape, generator=generator) for name, value in fresh.tensors.items()}
    return Head(fresh.card, {name: 0.3 * value for name, value in tensors.items()})


def _by_peft(folder: Path, dims: Dimensions, config: Any, *, seed: int) -> None:
    """A module that PEFT itself saved, every tuned parameter random."""
    model = copy.deepcopy(backbone_of(dims).model)
    if config.task_type == "QUESTION_ANS":
        model = with_head(model, "QUESTION_ANS", labels=2)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        wrapped = get_peft_model(model.float(), config)
        for value in wrapped.parameters():
            if value.requires_grad:
                value.data += 0.2 * torch.randn(value.shape)
        wrapped.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
